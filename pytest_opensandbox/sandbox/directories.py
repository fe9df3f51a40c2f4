"""Files and directories of a tree on this machine, reached by descriptors; no symbolic link is followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from pytest_opensandbox.sandbox.archive_checks import Budget

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a directory, and no link to one."""
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that make a file where there is nothing."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors of a directory that may not be written in."""

_PERMISSIONS = 0o777


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
