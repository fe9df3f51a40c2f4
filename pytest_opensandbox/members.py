"""What a tar from a sandbox may hold: every header is read and judged before anything is written."""

from __future__ import annotations

import os
import tarfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

from pytest_opensandbox.errors import FileTooLargeError, UnsafeArchiveError

MAX_MEMBERS = 250_000
MAX_HEADER_BYTES = 1024 * 1024
"""Longest name, or other header, that is read into memory."""
PATH_BYTES = 4095
"""Longest path that Linux takes."""

_DEPTH = 256
_NAME_BYTES = 255
_HOPS = 40
"""How many links the kernel follows before it gives up."""

Members = list[tuple[PurePosixPath, tarfile.TarInfo]]


@contextmanager
def open_checked(
    archive: BinaryIO, *, max_bytes: int, longest_name: int = PATH_BYTES, is_folding: bool = False
) -> Iterator[tuple[tarfile.TarFile, Members]]:
    """Open a tar and yield it with its members and their clean names, in order.

    Names are relative and without ``..``, none goes through a link or a file, links stay inside however they are
    chained, no two names are one to the file system, and there is nothing but files, directories and links.

    Args:
        archive: an open, uncompressed tar that can seek.
        max_bytes: most that all files together may have; bytes.
        longest_name: most that a name with its directories may have; bytes.
        is_folding: whether two names that differ in case alone are one where the members are to be written.

    Raises:
        UnsafeArchiveError: a member breaks a rule.
        FileTooLargeError: more than ``max_bytes``.
        tarfile.TarError: no complete tar; ValueError, EOFError and RecursionError say the same.
    """
    headers = _Headers(archive)
    with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[call-overload]  # it reads, seeks and tells
        members = _Judge(max_bytes, longest_name=longest_name, is_folding=is_folding).members(tar)
        _check_end(headers, tar.offset)
        headers.longest_read = None
        yield tar, members


class _Headers:
    """A file that refuses to read more at a time than a header has: the archive says how long its names are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.longest_read: int | None = MAX_HEADER_BYTES
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if self.longest_read is not None and not 0 <= size <= self.longest_read:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


class _Judge:
    """Judges members one after the other, in the light of those before."""

    def __init__(self, max_bytes: int, *, longest_name: int, is_folding: bool) -> None:
        self._max_bytes = max_bytes
        self._longest_name = longest_name
        self._is_folding = is_folding
        self._spellings: dict[PurePosixPath, PurePosixPath] = {}
        self._directories: set[PurePosixPath] = set()
        self._files: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def members(self, tar: tarfile.TarFile) -> Members:
        members: Members = []
        total = 0
        for member in tar:
            name = PurePosixPath(member.name)
            self._check_name(member, name)
            self._check_type(member, name)
            if member.size < 0:
                raise UnsafeArchiveError(member.name, "its size is negative")
            total += member.size
            if total > self._max_bytes:
                raise FileTooLargeError(member.name, size_bytes=total, max_bytes=self._max_bytes)
            if len(members) >= MAX_MEMBERS:
                raise UnsafeArchiveError(member.name, f"more than {MAX_MEMBERS:,} members")
            members.append((name, member))
        for name, member in members:
            if member.issym() and self._leads_out(name):
                raise UnsafeArchiveError(member.name, f"it links outside the tree, to {member.linkname!r}")
        return members

    def _check_name(self, member: tarfile.TarInfo, name: PurePosixPath) -> None:
        if name.is_absolute():
            raise UnsafeArchiveError(member.name, "its name is absolute")
        if ".." in name.parts:
            raise UnsafeArchiveError(member.name, "its name climbs with '..'")
        if "\0" in member.name or any(len(os.fsencode(part)) > _NAME_BYTES for part in name.parts):
            raise UnsafeArchiveError(member.name[:_NAME_BYTES], "no file can have its name")
        if len(os.fsencode(member.name)) > self._longest_name:
            raise UnsafeArchiveError(member.name[:_NAME_BYTES], "its name with all its directories is too long here")
        if len(name.parts) > _DEPTH:
            raise UnsafeArchiveError(member.name[:_NAME_BYTES], f"it lies more than {_DEPTH} directories deep")
        for parent in name.parents:
            if parent in self._directories:
                break
            self._check_spelling(member, parent)
            if self._key(parent) in self._links:
                raise UnsafeArchiveError(member.name, "its name goes through a symbolic link")
            if parent in self._files:
                raise UnsafeArchiveError(member.name, "its name goes through a file")
            self._directories.add(parent)
        self._check_spelling(member, name)

    def _check_spelling(self, member: tarfile.TarInfo, name: PurePosixPath) -> None:
        if (known := self._spellings.setdefault(self._key(name), name)) != name:
            raise UnsafeArchiveError(member.name, f"to this file system it is the same as {str(known)!r}")

    def _key(self, name: PurePosixPath) -> PurePosixPath:
        """Return what is the same for all names that are one to the file system."""
        return PurePosixPath(unicodedata.normalize("NFC", str(name)).casefold()) if self._is_folding else name

    def _check_type(self, member: tarfile.TarInfo, name: PurePosixPath) -> None:
        if member.isdir():
            self._directories.add(name)
            return
        if name in self._directories or not name.parts:
            raise UnsafeArchiveError(member.name, "it takes the place of a directory")
        self._files.add(name)
        if member.issym():
            _check_target(member)
            self._links[self._key(name)] = member.linkname
        elif member.islnk():
            _check_target(member)
            if ".." in PurePosixPath(member.linkname).parts:
                raise UnsafeArchiveError(member.name, f"it links outside the tree, to {member.linkname!r}")
        elif not member.isreg():
            raise UnsafeArchiveError(member.name, "it is a device or FIFO")

    def _leads_out(self, name: PurePosixPath) -> bool:
        """Say whether a link leaves the root when it is followed step by step, through other links too."""
        place = list(name.parent.parts)
        ahead = list(reversed(PurePosixPath(self._links[self._key(name)]).parts))
        hops = 0
        while ahead and hops < _HOPS:
            if (step := ahead.pop()) != "..":
                place.append(step)
            elif not place:
                return True
            else:
                place.pop()
            if (target := self._links.get(self._key(PurePosixPath(*place)))) is not None:
                hops += 1
                place.pop()
                ahead.extend(reversed(PurePosixPath(target).parts))
        return False


def _check_end(archive: _Headers, offset: int) -> None:
    """Refuse an archive that ends otherwise than with an empty header: the library takes a broken one for the end.

    Raises:
        tarfile.ReadError: it does.
    """
    archive.seek(offset)
    end = archive.read(tarfile.BLOCKSIZE)
    if end != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it breaks off at byte {offset:,}")


def _check_target(member: tarfile.TarInfo) -> None:
    link = member.linkname
    if link.startswith("/"):
        raise UnsafeArchiveError(member.name, f"it links to the absolute path {link!r}")
    if not link or "\0" in link or len(os.fsencode(link)) > PATH_BYTES:
        raise UnsafeArchiveError(member.name, "it links to nothing that can be")
