"""The members of a tar archive, read header by header; an archive from a sandbox is hostile until checked.

Python's ``tarfile`` is not used for it: it keeps every header, copies all global headers for each member, and reads
digits and sparse maps in more than linear time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from pytest_opensandbox.errors import ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import Budget

MAX_MEMBERS = 250_000
MAX_HEADER_BYTES = 1024 * 1024
"""Longest name, or other header, that is read into memory."""

_BLOCK = 512
_CHUNK_BYTES = 1024 * 1024
_MAX_HEADERS = 16
"""Most headers that may belong to one member."""

LONG_NAME, LONG_LINK, PAX, OLD_PAX, GLOBAL_PAX = b"L", b"K", b"x", b"X", b"g"
"""The types of headers that speak of the member behind them."""

_MAX_EXTENTS = 100_000
_ABOUT_ONE_FILE = (b"path", b"linkpath", b"size", b"GNU.sparse.")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")

Extent = tuple[int, int]
"""Where a piece of a file with holes begins, and how long it is; bytes."""

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
class Member:
    """One entry of an archive."""

    name: str
    kind: Kind
    mode: int
    """Permission bits."""
    size: int
    """Length of a file, its holes included; bytes."""
    link: str
    """Where a link leads; a hard link to the name of another member."""
    extents: list[Extent]
    """The pieces of a file that the archive holds, in order; what lies between them is zero."""


class Members:
    """Reads an archive once, from its beginning to its end; iterate over it once.

    The content of a member is read with ``content`` before the next member is asked for, or skipped.

    Args:
        archive: an open, uncompressed tar; it need not seek.
        budget: what reading it may cost.
    """

    def __init__(self, archive: BinaryIO, budget: Budget) -> None:
        self._archive = archive
        self._budget = budget
        self._left = 0
        self._padding = 0
        self._extents: list[Extent] = []

    def __iter__(self) -> Iterator[Member]:
        """Yield the members in order.

        Raises:
            ProtocolError: no complete tar archive.
            UnsafeArchiveError: too many members, or the budget is used up.
            FileTooLargeError: the files have more bytes than the budget allows.
        """
        count = 0
        while (member := self._next()) is not None:
            count += 1
            if count > MAX_MEMBERS:
                raise UnsafeArchiveError(member.name, f"more than {MAX_MEMBERS:,} members")
            yield member
            self._skip()

    def content(self) -> Iterator[tuple[int, bytes]]:
        """Yield the content of the last member: places in the file, and the bytes that are there.

        Raises:
            ProtocolError: the archive ends before.
        """
        for place, length in self._extents:
            while length:
                piece = self._read(min(length, _CHUNK_BYTES))
                self._left -= len(piece)
                yield place, piece
                place, length = place + len(piece), length - len(piece)

    def _next(self) -> Member | None:
        headers = Headers()
        for _ in range(_MAX_HEADERS):
            block = self._read_block()
            if block == bytes(_BLOCK):
                if headers.used:
                    raise broken("it ends after a header that belongs to a file")
                return None
            check_sum(block)
            kind = block[156:157]
            if kind not in (LONG_NAME, LONG_LINK, PAX, OLD_PAX, GLOBAL_PAX):
                return self._member(block, headers)
            headers.add(kind, self._header_data(octal(block[124:136])), self._budget)
        raise broken("headers upon headers")

    def _header_data(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise broken(f"a header of {size:,} bytes")
        self._budget.step(size // _BLOCK)
        data = self._read(size)
        self._read(-size % _BLOCK)
        return data

    def _member(self, block: bytes, headers: Headers) -> Member:
        name = headers.name or header_name(block)
        shown = os.fsdecode(name)
        self._budget.begin(shown)
        kind = _KINDS.get(block[156:157], "other")
        # So did old programs write a directory; one that knows sparse files does not.
        if kind == "file" and name.endswith(b"/") and block[156:157] != b"S":
            kind = "directory"
        stored = octal(block[124:136]) if headers.size is None else headers.size
        if kind in ("directory", "symlink", "other") and stored:
            raise UnsafeArchiveError(shown, "it has content and is no file")
        member = Member(shown, kind, octal(block[100:108]) & 0o777, 0, "", [])
        if kind == "file":
            self._open_content(member, block, headers, stored)
        elif kind in ("symlink", "hardlink"):
            member.link = os.fsdecode(headers.link or header_text(block[157:257]))
        return member

    def _open_content(self, member: Member, block: bytes, headers: Headers, stored: int) -> None:
        """Find out where the content of a file goes, and be ready to read it."""
        # A map may stand in blocks of its own behind the header, or at the beginning of the content.
        old_map = self._old_map(block) if block[156:157] == b"S" else None
        self._left, self._padding = stored, -stored % _BLOCK
        if old_map is not None:
            member.size, member.extents = octal(block[483:495]), old_map
        elif headers.is_sparse:
            member.size = headers.real_size
            member.extents = self._map_before_content() if headers.has_map_in_content else headers.extents
        else:
            member.size, member.extents = stored, [(0, stored)]
        self._extents = member.extents
        _check_extents(member, self._left)
        self._budget.take(member.size)

    def _old_map(self, block: bytes) -> list[Extent]:
        """Read the map of GNU tar's own format."""
        extents = list(old_extents(block[386:482]))
        more = block[482]
        while more:
            block = self._read_block()
            extents += old_extents(block[:504])
            more = block[504]
            check_count(len(extents))
        return extents

    def _map_before_content(self) -> list[Extent]:
        """Read the map of pax format 1.0: lines of decimal numbers, how many first, padded to whole blocks."""
        buffer = bytearray()
        count = decimal(self._map_line(buffer))
        check_count(count)
        return [(decimal(self._map_line(buffer)), decimal(self._map_line(buffer))) for _ in range(count)]

    def _map_line(self, buffer: bytearray) -> bytes:
        self._budget.step()
        while (end := buffer.find(b"\n", 0, 64)) < 0:
            if len(buffer) > 64 or self._left < _BLOCK:
                raise broken("a map of holes that makes no sense")
            self._left -= _BLOCK
            buffer += self._read_block()
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line

    def _skip(self) -> None:
        """Read over what is left of a member."""
        self._extents = []
        left, self._left, self._padding = self._left + self._padding, 0, 0
        while left:
            left -= len(self._read(min(left, _CHUNK_BYTES)))

    def _read_block(self) -> bytes:
        self._budget.step()
        return self._read(_BLOCK)

    def _read(self, size: int) -> bytes:
        data = self._archive.read(size) if size else b""
        if len(data) < size:
            raise broken("it breaks off")
        if size >= _CHUNK_BYTES:
            self._budget.look_at_the_clock()
        return data


def _check_extents(member: Member, stored: int) -> None:
    end = total = 0
    for place, length in member.extents:
        if place < end:
            raise broken(f"the pieces of {member.name!r} overlap")
        end, total = place + length, total + length
    if end > member.size or total != stored:
        raise broken(f"the pieces of {member.name!r} do not add up")


def broken(why: str) -> ProtocolError:
    """Return the error for bytes that are no complete tar archive."""
    return ProtocolError(f"the sandbox sent no complete tar archive: {why}")


@dataclass
class Headers:
    """What the headers before a member say of it."""

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

    def add(self, kind: bytes, data: bytes, budget: Budget) -> None:
        """Take in one header."""
        if kind == LONG_NAME:
            self.name, self.used = header_text(data), True
        elif kind == LONG_LINK:
            self.link, self.used = header_text(data), True
        else:
            self.used = self.used or kind != GLOBAL_PAX
            for key, value in records(data, budget):
                if kind != GLOBAL_PAX:
                    self._set(key, value, budget)
                elif key.startswith(_ABOUT_ONE_FILE):
                    raise broken("a global header that speaks of one file")

    def _set(self, key: bytes, value: bytes, budget: Budget) -> None:
        if key == b"path":
            self.name = self.name if self.is_named_by_map else value
        elif key == b"linkpath":
            self.link = value
        elif key == b"size":
            self.size = decimal(value)
        elif key.startswith(b"GNU.sparse."):
            self._set_sparse(key.removeprefix(b"GNU.sparse."), value, budget)

    def _set_sparse(self, key: bytes, value: bytes, budget: Budget) -> None:
        self.is_sparse = True
        if key in (b"size", b"realsize"):
            self.real_size = decimal(value)
        elif key == b"name":
            self.name, self.is_named_by_map = value, True
        elif key == b"major":
            self.has_map_in_content = decimal(value) == 1
        elif key == b"offset":
            self._offset = decimal(value)
        elif key == b"numbytes":
            self.extents.append((self._offset, decimal(value)))
        elif key == b"map":
            numbers = [decimal(number) for number in value.split(b",")] if value else []
            budget.step(len(numbers))
            self.extents = list(zip(numbers[::2], numbers[1::2], strict=False))
        check_count(len(self.extents))


def records(data: bytes, budget: Budget) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a pax header: ``length key=value`` with a line break, the length of all of it first."""
    place = 0
    while place < len(data):
        budget.step()
        space = data.find(b" ", place, place + 20)
        if space < 0:
            raise broken("a pax header that makes no sense")
        length = decimal(data[place:space])
        record = data[space + 1 : place + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or place + length > len(data):
            raise broken("a pax header that makes no sense")
        yield key, value[:-1]
        place += length


def old_extents(table: bytes) -> Iterator[Extent]:
    """Yield the entries of one block of an old map; an empty one ends it."""
    for place in range(0, len(table) - 23, 24):
        if not table[place]:
            return
        yield octal(table[place : place + 12]), octal(table[place + 12 : place + 24])


def check_count(extents: int) -> None:
    """Refuse a map of more pieces than a file of a sandbox should have."""
    if extents > _MAX_EXTENTS:
        raise broken(f"a map of more than {_MAX_EXTENTS:,} pieces")


def check_sum(block: bytes) -> None:
    """Refuse a header that is damaged, or is none."""
    without = block[:148] + b" " * 8 + block[156:]
    said = octal(block[148:156])
    # Some old programs added the bytes up as signed numbers.
    if said != sum(without) and said != sum(without) - 256 * sum(byte > 127 for byte in without):
        raise broken("a header whose sum is wrong")


def header_name(block: bytes) -> bytes:
    """Return the name in a header, put together from its two fields."""
    name, prefix = header_text(block[:100]), header_text(block[345:500])
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def header_text(field: bytes) -> bytes:
    """Return a text field, which ends at its first NUL."""
    return field.partition(b"\0")[0]


def octal(field: bytes) -> int:
    """Return a number in octal digits, or where the first bit says so in binary."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise broken(f"{field!r} is no number")
    return int(match[1] or b"0", 8)


def decimal(text: bytes) -> int:
    """Return a number in at most 19 decimal digits."""
    if not _DECIMAL.fullmatch(text):
        raise broken(f"{text[:40]!r} is no number")
    return int(text)
