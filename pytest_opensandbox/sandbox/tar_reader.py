"""A reader of tar archives that treats every byte as hostile.

It takes linear time and bounded memory, unlike Python's ``tarfile``: that keeps every header, copies all global headers
for each entry, and reads digits and sparse maps in more than linear time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from pytest_opensandbox.errors import ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget

_BLOCK = 512
_CHUNK_BYTES = 1024 * 1024
_MAX_HEADER_BYTES = 1024 * 1024
"""Longest extended header that is read into memory."""
_MAX_HEADERS = 16
"""Most headers of one entry."""
_MAX_EXTENTS = 100_000

_LONG_NAME, _LONG_LINK, _PAX, _OLD_PAX, _GLOBAL_PAX = b"L", b"K", b"x", b"X", b"g"
_EXTENDED = (_LONG_NAME, _LONG_LINK, _PAX, _OLD_PAX, _GLOBAL_PAX)
"""The types of headers that describe the entry after them."""
_KEYS_OF_ONE_FILE = (b"path", b"linkpath", b"size", b"GNU.sparse.")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")

Extent = tuple[int, int]
"""The offset and the length of one piece of a sparse file; bytes."""

Kind = Literal["file", "directory", "symlink", "hardlink", "other"]
_KINDS: dict[bytes, Kind] = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"5": "directory",
}


@dataclass
class TarEntry:
    """One entry of an archive."""

    name: str
    kind: Kind
    mode: int
    """Permission bits."""
    size: int
    """Length of a file, its holes included; bytes."""
    link: str
    """The target of a symbolic link; for a hard link the name of another entry."""
    extents: list[Extent]
    """The pieces of a file that the archive holds, in order; the bytes between them are zero."""


class TarReader:
    """Reads an archive once, from its beginning to its end; iterate over it once.

    Read the content of an entry with ``content`` before the next entry; otherwise it is skipped.

    Args:
        archive: an open, uncompressed tar; it need not seek.
        budget: limits what reading may cost.
    """

    def __init__(self, archive: BinaryIO, budget: ArchiveBudget) -> None:
        self._archive = archive
        self._budget = budget
        self._left = 0
        self._padding = 0
        self._extents: list[Extent] = []

    def __iter__(self) -> Iterator[TarEntry]:
        """Yield the entries in order.

        Raises:
            ProtocolError: this is no complete tar archive.
            UnsafeArchiveError: the budget is used up.
            FileTooLargeError: the files have more bytes than the budget allows.
        """
        while (entry := self._next()) is not None:
            yield entry
            self._skip()

    def content(self) -> Iterator[tuple[int, bytes]]:
        """Yield the content of the last entry as pairs of an offset in the file and the bytes there.

        Raises:
            ProtocolError: the archive is truncated.
        """
        for offset, length in self._extents:
            while length:
                piece = self._read(min(length, _CHUNK_BYTES))
                self._left -= len(piece)
                yield offset, piece
                offset, length = offset + len(piece), length - len(piece)

    def _next(self) -> TarEntry | None:
        headers = _ExtendedHeaders()
        for _ in range(_MAX_HEADERS):
            block = self._read_block()
            if block == bytes(_BLOCK):
                if headers.used:
                    raise _invalid("it ends after the extended header of an entry")
                return None
            _check_checksum(block)
            kind = block[156:157]
            if kind not in _EXTENDED:
                return self._read_entry(block, headers)
            headers.add(kind, self._read_header_data(_octal(block[124:136])), self._budget)
        raise _invalid(f"an entry has {_MAX_HEADERS} extended headers or more")

    def _read_header_data(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise _invalid(f"a header of {size:,} bytes")
        self._budget.count_steps(size // _BLOCK)
        data = self._read(size)
        self._read(-size % _BLOCK)
        return data

    def _read_entry(self, block: bytes, headers: _ExtendedHeaders) -> TarEntry:
        name = headers.name or _header_name(block)
        shown = os.fsdecode(name)
        self._budget.start_entry(shown)
        kind = _KINDS.get(block[156:157], "other")
        # Old programs marked a directory by a slash only; programs that know sparse files do not.
        if kind == "file" and name.endswith(b"/") and block[156:157] != b"S":
            kind = "directory"
        stored = _octal(block[124:136]) if headers.size is None else headers.size
        if kind in ("directory", "symlink", "other") and stored:
            raise UnsafeArchiveError(shown, "it has content and is no file")
        entry = TarEntry(shown, kind, _octal(block[100:108]) & 0o777, 0, "", [])
        if kind == "file":
            self._start_content(entry, block, headers, stored)
        elif kind in ("symlink", "hardlink"):
            entry.link = os.fsdecode(headers.link or _header_text(block[157:257]))
        return entry

    def _start_content(self, entry: TarEntry, block: bytes, headers: _ExtendedHeaders, stored: int) -> None:
        """Read where the content of a file goes, up to the first byte of the content."""
        # The map of a sparse file is in blocks of its own after the header, or at the beginning of the content.
        old_map = self._read_old_map(block) if block[156:157] == b"S" else None
        self._left, self._padding = stored, -stored % _BLOCK
        if old_map is not None:
            entry.size, entry.extents = _octal(block[483:495]), old_map
        elif headers.is_sparse:
            entry.size = headers.real_size
            entry.extents = self._read_map_in_content() if headers.has_map_in_content else headers.extents
        else:
            entry.size, entry.extents = stored, [(0, stored)]
        self._extents = entry.extents
        _check_extents(entry, self._left)
        self._budget.count_content(entry.size)

    def _read_old_map(self, block: bytes) -> list[Extent]:
        """Read the sparse map of GNU tar's own format."""
        extents = list(_old_extents(block[386:482]))
        more = block[482]
        while more:
            block = self._read_block()
            extents += _old_extents(block[:504])
            more = block[504]
            _check_extent_count(len(extents))
        return extents

    def _read_map_in_content(self) -> list[Extent]:
        """Read the sparse map of pax format 1.0: lines of decimal numbers, the count first, padded to whole blocks."""
        buffer = bytearray()
        count = _decimal(self._read_map_line(buffer))
        _check_extent_count(count)
        return [(_decimal(self._read_map_line(buffer)), _decimal(self._read_map_line(buffer))) for _ in range(count)]

    def _read_map_line(self, buffer: bytearray) -> bytes:
        self._budget.count_steps()
        while (end := buffer.find(b"\n", 0, 64)) < 0:
            if len(buffer) > 64 or self._left < _BLOCK:
                raise _invalid("a malformed sparse map")
            self._left -= _BLOCK
            buffer += self._read_block()
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line

    def _skip(self) -> None:
        """Read past the rest of an entry."""
        self._extents = []
        left, self._left, self._padding = self._left + self._padding, 0, 0
        while left:
            left -= len(self._read(min(left, _CHUNK_BYTES)))

    def _read_block(self) -> bytes:
        self._budget.count_steps()
        return self._read(_BLOCK)

    def _read(self, size: int) -> bytes:
        data = self._archive.read(size) if size else b""
        if len(data) < size:
            raise _invalid("it is truncated")
        if size >= _CHUNK_BYTES:
            self._budget.check_time()
        return data


@dataclass
class _ExtendedHeaders:
    """The extended headers before an entry, which replace fields of its own header."""

    name: bytes = b""
    link: bytes = b""
    size: int | None = None
    used: bool = False
    is_sparse: bool = False
    is_named_by_map: bool = False
    has_map_in_content: bool = False
    real_size: int = 0
    extents: list[Extent] = field(default_factory=list)
    _offset: int = 0

    def add(self, kind: bytes, data: bytes, budget: ArchiveBudget) -> None:
        """Add one header."""
        if kind == _LONG_NAME:
            self.name, self.used = _header_text(data), True
        elif kind == _LONG_LINK:
            self.link, self.used = _header_text(data), True
        else:
            self.used = self.used or kind != _GLOBAL_PAX
            for key, value in _pax_records(data, budget):
                if kind != _GLOBAL_PAX:
                    self._set(key, value, budget)
                elif key.startswith(_KEYS_OF_ONE_FILE):
                    raise _invalid("a global header describes one file")

    def _set(self, key: bytes, value: bytes, budget: ArchiveBudget) -> None:
        if key == b"path":
            self.name = self.name if self.is_named_by_map else value
        elif key == b"linkpath":
            self.link = value
        elif key == b"size":
            self.size = _decimal(value)
        elif key.startswith(b"GNU.sparse."):
            self._set_sparse(key.removeprefix(b"GNU.sparse."), value, budget)

    def _set_sparse(self, key: bytes, value: bytes, budget: ArchiveBudget) -> None:
        self.is_sparse = True
        if key in (b"size", b"realsize"):
            self.real_size = _decimal(value)
        elif key == b"name":
            self.name, self.is_named_by_map = value, True
        elif key == b"major":
            self.has_map_in_content = _decimal(value) == 1
        elif key == b"offset":
            self._offset = _decimal(value)
        elif key == b"numbytes":
            self.extents.append((self._offset, _decimal(value)))
        elif key == b"map":
            numbers = [_decimal(number) for number in value.split(b",")] if value else []
            budget.count_steps(len(numbers))
            self.extents = list(zip(numbers[::2], numbers[1::2], strict=False))
        _check_extent_count(len(self.extents))


def _pax_records(data: bytes, budget: ArchiveBudget) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a pax header.

    A record is ``length key=value`` and a newline; the length is that of the whole record.
    """
    start = 0
    while start < len(data):
        budget.count_steps()
        space = data.find(b" ", start, start + 20)
        if space < 0:
            raise _invalid("a malformed pax header")
        length = _decimal(data[start:space])
        record = data[space + 1 : start + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or start + length > len(data):
            raise _invalid("a malformed pax header")
        yield key, value[:-1]
        start += length


def _old_extents(table: bytes) -> Iterator[Extent]:
    """Yield the extents of one block of an old sparse map; an empty one ends it."""
    for start in range(0, len(table) - 23, 24):
        if not table[start]:
            return
        yield _octal(table[start : start + 12]), _octal(table[start + 12 : start + 24])


def _check_extents(entry: TarEntry, stored: int) -> None:
    end = total = 0
    for offset, length in entry.extents:
        if offset < end:
            raise _invalid(f"the extents of {entry.name!r} overlap")
        end, total = offset + length, total + length
    if end > entry.size or total != stored:
        raise _invalid(f"the extents of {entry.name!r} do not match its size")


def _check_extent_count(count: int) -> None:
    if count > _MAX_EXTENTS:
        raise _invalid(f"a sparse map of more than {_MAX_EXTENTS:,} extents")


def _check_checksum(block: bytes) -> None:
    without = block[:148] + b" " * 8 + block[156:]
    stated = _octal(block[148:156])
    # Some old programs added the bytes up as signed numbers.
    if stated != sum(without) and stated != sum(without) - 256 * sum(byte > 127 for byte in without):
        raise _invalid("a header with a wrong checksum")


def _header_name(block: bytes) -> bytes:
    """Return the name in a header, joined from its two fields."""
    name, prefix = _header_text(block[:100]), _header_text(block[345:500])
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _header_text(field: bytes) -> bytes:
    """Return a text field, which ends at its first NUL."""
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int:
    """Return a number in octal digits, or in binary where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise _invalid(f"{field!r} is no number")
    return int(match[1] or b"0", 8)


def _decimal(text: bytes) -> int:
    """Return a number of at most 19 decimal digits."""
    if not _DECIMAL.fullmatch(text):
        raise _invalid(f"{text[:40]!r} is no number")
    return int(text)


def _invalid(why: str) -> ProtocolError:
    """Return the error for bytes that are no complete tar archive."""
    return ProtocolError(f"the sandbox sent no complete tar archive: {why}")
