"""Single files written beside their target, and moved there when complete."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pytest_opensandbox.sandbox.directories import NEW_FILE, NOT_WRITABLE, exists, mode_of

_ROOM = "make room there, or set TMPDIR to another directory"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def replacing_file(target: Path, mode: int) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of the target when the block ends well; a link there is not followed.

    Args:
        target: in a directory that exists.
        mode: permission bits of the new file.

    Raises:
        FileExistsError: the target is a device, a socket or a FIFO, or a link to one.
        OSError: the target is a directory, or cannot be written.
    """
    place = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        there = mode_of(target.name, place)
        if there is not None and stat.S_ISDIR(there):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if there is not None and _is_device(target):
            raise FileExistsError(errno.EEXIST, "it is a device, a socket or a FIFO, or leads to one", str(target))
        yield from _beside(target, place, mode)
    finally:
        os.close(place)


@contextmanager
def naming(place: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Give an error of the system the path that it is about, where it names none or only the end of one.

    Args:
        place: what is written in the block.
        advice: what to do where there is no room left.
    """
    try:
        yield
    except OSError as exc:
        is_full = exc.errno in _FULL and exc.filename is None
        if is_full and advice:
            exc.strerror = f"{exc.strerror} ({advice})"
        if is_full or (isinstance(exc.filename, str) and not os.path.isabs(exc.filename)):
            exc.filename = os.fspath(place)
        raise


@contextmanager
def temporary_archive() -> Iterator[BinaryIO]:
    """Yield a temporary file with a name, which goes with the block; one for which there is no room says so."""
    with naming(tempfile.gettempdir(), _ROOM), tempfile.NamedTemporaryFile() as file:
        yield file  # type: ignore[misc]  # typeshed: a wrapper that behaves as a BinaryIO


def _beside(target: Path, place: int, mode: int) -> Iterator[BinaryIO]:
    name = f".opensandbox-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(name, NEW_FILE, 0o600, dir_fd=place)
    except OSError as exc:
        # A file may be writable in a directory that is not.
        if exc.errno not in NOT_WRITABLE or not exists(target.name, place):
            raise
        yield from _in_place(target, place, mode)
        return
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
        os.replace(name, target.name, src_dir_fd=place, dst_dir_fd=place)
    except BaseException:
        os.unlink(name, dir_fd=place)
        raise


def _in_place(target: Path, place: int, mode: int) -> Iterator[BinaryIO]:
    """Yield a file elsewhere, whose content replaces that of the target once it is whole."""
    descriptor = os.open(target.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    with open(descriptor, "wb") as file, temporary_archive() as kept:
        yield kept
        kept.seek(0)
        file.truncate(0)
        shutil.copyfileobj(kept, file)
        os.fchmod(file.fileno(), mode)


def _is_device(path: Path) -> bool:
    """Say whether a path leads to what is written to and not replaced, such as /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
