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

from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a directory, and no link to one."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors of a directory that may not be written in."""
OWNER_BITS = 0o700
PERMISSION_BITS = 0o777

_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DISK_FULL_ADVICE = "free some space there, or set TMPDIR to another directory"


class OpenDirectories:
    """The directories of a tree, opened one inside the other; those on the path to the last one stay open.

    Args:
        root: descriptor of the root, which the caller closes.
        budget: counts the directories that are opened.
    """

    def __init__(self, root: int, budget: ArchiveBudget) -> None:
        self._root = root
        self._budget = budget
        self._names: list[str] = []
        self._descriptors: list[int] = []

    def open(self, parts: Sequence[str], *, make: bool = False) -> int:
        """Return the descriptor of a directory; it is valid until the next call.

        Args:
            parts: the names on the path to it.
            make: make those that are missing.

        Raises:
            NotADirectoryError: a file or a link is on the path.
            FileNotFoundError: one is missing.
        """
        self._budget.count_steps()
        shared = self._shared_with(parts)
        while len(self._descriptors) > shared:
            self._close_last()
        for part in parts[shared:]:
            self._budget.count_steps()
            before_making = self._budget.count_directory if make else None
            self._descriptors.append(_open_or_make(part, self._last, before_making))
            self._names.append(part)
        return self._last

    def close(self) -> None:
        """Close all of them."""
        while self._descriptors:
            self._close_last()

    @property
    def _last(self) -> int:
        return self._descriptors[-1] if self._descriptors else self._root

    def _shared_with(self, parts: Sequence[str]) -> int:
        """Return how many of the open directories are on the path to another one."""
        if self._names == list(parts[: len(self._names)]):
            return len(self._names)
        return next(index for index, name in enumerate(self._names) if index >= len(parts) or name != parts[index])

    def _close_last(self) -> None:
        os.close(self._descriptors.pop())
        self._names.pop()


def create_file(name: str, directory: int, write: Callable[[int], None], mode: int) -> None:
    """Create a file in a directory.

    Args:
        name: of the file.
        directory: descriptor.
        write: receives the file's descriptor.
        mode: permission bits.

    Raises:
        FileExistsError: the name exists.
    """
    file = os.open(name, _CREATE_FILE, 0o600, dir_fd=directory)
    try:
        write(file)
        os.fchmod(file, mode)
    finally:
        os.close(file)


def is_directory(name: str, directory: int) -> bool:
    """Return whether a name in a directory is a directory, and no link to one."""
    mode = mode_of(name, directory)
    return mode is not None and stat.S_ISDIR(mode)


def exists(name: str, directory: int) -> bool:
    """Return whether a name exists in a directory, links not followed."""
    return mode_of(name, directory) is not None


def mode_of(name: str, directory: int) -> int | None:
    """Return type and permissions of a name in a directory, links not followed; None if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def set_modes(root: int, modes: dict[tuple[str, ...], int], budget: ArchiveBudget) -> None:
    """Set the permission bits of directories below a root, the deepest first."""
    with closing(OpenDirectories(root, budget)) as directories:
        for parts in sorted(modes, key=len, reverse=True):
            os.fchmod(directories.open(parts), modes[parts])


@contextmanager
def open_directory(name: str, parent: int) -> Iterator[int]:
    """Yield the descriptor of a directory in a directory."""
    descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_replacement(target: Path, mode: int) -> Iterator[BinaryIO]:
    """Yield a file that replaces the target if the block succeeds; a link at the target is not followed.

    Args:
        target: in a directory that exists.
        mode: permission bits of the new file.

    Raises:
        FileExistsError: the target is a device, a socket or a FIFO, or a link to one.
        OSError: the target is a directory, or cannot be written.
    """
    parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old_mode = mode_of(target.name, parent)
        if old_mode is not None and stat.S_ISDIR(old_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if old_mode is not None and _is_special(target):
            raise FileExistsError(errno.EEXIST, "it is a device, a socket or a FIFO, or leads to one", str(target))
        yield from _write_beside(target, parent, mode)
    finally:
        os.close(parent)


@contextmanager
def add_path_to_errors(path: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Add a full path to an OSError that has no path, or only the last part of one.

    Args:
        path: what the block writes.
        advice: added to the text of an error that says that the disk is full.
    """
    try:
        yield
    except OSError as exc:
        is_full = exc.errno in _DISK_FULL and exc.filename is None
        if is_full and advice:
            exc.strerror = f"{exc.strerror} ({advice})"
        if is_full or (isinstance(exc.filename, str) and not os.path.isabs(exc.filename)):
            exc.filename = os.fspath(path)
        raise


@contextmanager
def temporary_archive() -> Iterator[BinaryIO]:
    """Yield a temporary file with a name, removed after the block; an error for a full disk says what to do."""
    with add_path_to_errors(tempfile.gettempdir(), _DISK_FULL_ADVICE), tempfile.NamedTemporaryFile() as file:
        yield file  # type: ignore[misc]  # typeshed: a wrapper that behaves as a BinaryIO


def _open_or_make(name: str, parent: int, before_making: Callable[[], None] | None) -> int:
    """Open a directory; make it if it is missing and ``before_making`` is given, which may raise."""
    try:
        return os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if before_making is None:
            raise
    except OSError as exc:
        # The error for a link depends on the system.
        if exc.errno in (errno.ELOOP, errno.EMLINK):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from exc
        raise
    before_making()
    os.mkdir(name, PERMISSION_BITS, dir_fd=parent)
    return os.open(name, OPEN_DIRECTORY, dir_fd=parent)


def _write_beside(target: Path, parent: int, mode: int) -> Iterator[BinaryIO]:
    """Yield a file beside the target, which is renamed to it."""
    name = f".opensandbox-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(name, _CREATE_FILE, 0o600, dir_fd=parent)
    except OSError as exc:
        # A file may be writable in a directory that is not.
        if exc.errno not in NOT_WRITABLE or not exists(target.name, parent):
            raise
        yield from _write_in_place(target, parent, mode)
        return
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
        os.replace(name, target.name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(name, dir_fd=parent)
        raise


def _write_in_place(target: Path, parent: int, mode: int) -> Iterator[BinaryIO]:
    """Yield a temporary file whose content replaces that of the target when it is complete."""
    descriptor = os.open(target.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    with open(descriptor, "wb") as file, temporary_archive() as complete:
        yield complete
        complete.seek(0)
        file.truncate(0)
        shutil.copyfileobj(complete, file)
        os.fchmod(file.fileno(), mode)


def _is_special(path: Path) -> bool:
    """Return whether a path leads to what is written to and not replaced, such as /dev/stdout."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
