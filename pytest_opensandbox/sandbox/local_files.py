"""Files and directories on this machine, reached by descriptors; no symbolic link is followed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from pytest_opensandbox.sandbox.archive_limits import Budget

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a directory, and no link to one."""
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that make a file where there is nothing."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors of a directory that may not be written in."""

_PERMISSIONS = 0o777
_ROOM = "make room there, or set TMPDIR to another directory"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Directories:
    """The directories of a tree, opened one inside the other; those on the way to the last one stay open.

    Args:
        root: descriptor of the root, which stays the caller's.
        budget: counts the directories that are opened.
    """

    def __init__(self, root: int, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._names: list[str] = []
        self._open: list[int] = []

    def enter(self, parts: Sequence[str], *, make: bool = False) -> int:
        """Return the descriptor of a directory; it is good until the next call.

        Args:
            parts: the names on the way to it.
            make: make those that are missing.

        Raises:
            NotADirectoryError: a file or a link is on the way.
            FileNotFoundError: one is missing.
        """
        self._budget.step()
        same = self._shared_with(parts)
        while len(self._open) > same:
            self._leave()
        for part in parts[same:]:
            self._budget.step()
            self._open.append(_open_directory(part, self._last, make=self._budget.make_directory if make else None))
            self._names.append(part)
        return self._last

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            self._leave()

    @property
    def _last(self) -> int:
        return self._open[-1] if self._open else self._root

    def _shared_with(self, parts: Sequence[str]) -> int:
        """Return how many of the open directories are on the way to another one."""
        if self._names == list(parts[: len(self._names)]):
            return len(self._names)
        return next(place for place, name in enumerate(self._names) if place >= len(parts) or name != parts[place])

    def _leave(self) -> None:
        os.close(self._open.pop())
        self._names.pop()


def create_file(name: str, directory: int, write: Callable[[int], None], mode: int) -> None:
    """Make a new file in a directory.

    Args:
        name: what it is called.
        directory: descriptor.
        write: is given the file's descriptor.
        mode: permission bits.

    Raises:
        FileExistsError: there is something of that name.
    """
    file = os.open(name, NEW_FILE, 0o600, dir_fd=directory)
    try:
        write(file)
        os.fchmod(file, mode)
    finally:
        os.close(file)


def is_directory(name: str, directory: int) -> bool:
    """Say whether a name in a directory is a directory, and no link to one."""
    mode = mode_of(name, directory)
    return mode is not None and stat.S_ISDIR(mode)


def exists(name: str, directory: int) -> bool:
    """Say whether there is anything of that name, links not followed."""
    return mode_of(name, directory) is not None


def set_modes(root: int, modes: dict[tuple[str, ...], int], budget: Budget) -> None:
    """Set the permission bits of directories below a root, the deepest first."""
    with closing(Directories(root, budget)) as directories:
        for parts in sorted(modes, key=len, reverse=True):
            os.fchmod(directories.enter(parts), modes[parts])


def mode_of(name: str, directory: int) -> int | None:
    """Return type and permissions of a name in a directory, links not followed; None where there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


@contextmanager
def opened(name: str, parent: int) -> Iterator[int]:
    """Yield the descriptor of a directory in a directory."""
    descriptor = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_directory(name: str, parent: int, *, make: Callable[[], None] | None) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if make is None:
            raise
    except OSError as exc:
        # What a link gives depends on the system.
        if exc.errno in (errno.ELOOP, errno.EMLINK):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from exc
        raise
    make()
    os.mkdir(name, _PERMISSIONS, dir_fd=parent)
    return os.open(name, DIRECTORY, dir_fd=parent)


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
