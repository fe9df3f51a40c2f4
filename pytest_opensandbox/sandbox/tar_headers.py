"""The fields and records of a tar archive's headers, read in linear time whatever they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_opensandbox.errors import ProtocolError
from pytest_opensandbox.sandbox.archive_checks import Budget

LONG_NAME, LONG_LINK, PAX, OLD_PAX, GLOBAL_PAX = b"L", b"K", b"x", b"X", b"g"
"""The types of headers that speak of the member behind them."""

_MAX_EXTENTS = 100_000
_ABOUT_ONE_FILE = (b"path", b"linkpath", b"size", b"GNU.sparse.")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")

Extent = tuple[int, int]
"""Where a piece of a file with holes begins, and how long it is; bytes."""


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
