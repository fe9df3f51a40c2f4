"""Trees put in place on this machine: unpacked in a private directory, moved to their target when complete.

What lies in the target is reached by descriptors, and none of its links is followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_opensandbox.errors import UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import Budget
from pytest_opensandbox.sandbox.local_files import DIRECTORY, NOT_WRITABLE, exists, is_directory, mode_of, opened

_OWNER = 0o700
_PERMISSIONS = 0o777


class NewTree:
    """A tree that is unpacked in a private directory, and then moved to its target.

    Attributes:
        root: descriptor of the new tree's root.
        target: the target's real path.
        old_root: descriptor of the target, None where it is new.

    Args:
        target: what it becomes, or is merged into.
        budget: counts what is moved.

    Raises:
        FileExistsError: the target is a file, or a link that leads to no directory.
    """

    def __init__(self, target: Path, budget: Budget) -> None:
        self._budget = budget
        self.target = _resolved(target)
        self.old_root = _open_if_there(self.target)
        self._name = f".opensandbox-{secrets.token_hex(8)}"
        self._descriptors: list[int] = [] if self.old_root is None else [self.old_root]
        try:
            self._place = self._keep_open(self._make_private())
            self._make_root()
        except BaseException:
            self._close_all()
            raise

    def move(self, root_mode: int | None) -> int:
        """Move the tree to its target, and return the descriptor of the target, which is the caller's.

        Args:
            root_mode: permission bits for the root, where the target is new.

        Raises:
            UnsafeArchiveError: a link or a directory of the target is in the way; nothing was moved.
            OSError: the target cannot be written, or has another file system in it where the tree has a directory.
        """
        if self.old_root is None and self._become_target():
            if root_mode is not None:
                os.fchmod(self.root, root_mode)
            return os.dup(self.root)
        root = os.dup(self.old_root) if self.old_root is not None else os.open(self.target, DIRECTORY)
        try:
            _check_merge(self.root, root, "", self._budget)
            with _writable(root, stat.S_IMODE(os.fstat(root).st_mode)):
                _merge(self.root, root)
        except BaseException:
            os.close(root)
            raise
        return root

    def close(self) -> None:
        """Remove what has not been moved."""
        # Removing takes two descriptors, and there may be no others.
        for descriptor in (self.root, self._spare):
            self._descriptors.remove(descriptor)
            os.close(descriptor)
        try:
            self._remove()
        except KeyboardInterrupt:
            self._remove()
            raise
        finally:
            self._close_all()

    def _remove(self) -> None:
        with suppress(OSError):
            _remove_all(self._private)
            os.rmdir(self._name, dir_fd=self._place)

    def _make_private(self) -> int:
        """Make the private directory beside the target, where that is possible, else in it; return where it is."""
        parents = (parent for parent in self.target.parents if parent.is_dir())
        beside = os.open(next(parents, self.target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        old = self.old_root
        try:
            # A rename works on one file system only.
            if old is None or os.fstat(old).st_dev == os.fstat(beside).st_dev:
                os.mkdir(self._name, _OWNER, dir_fd=beside)
                return beside
        except OSError as exc:
            if old is None or exc.errno not in NOT_WRITABLE:
                os.close(beside)
                raise
        os.close(beside)
        inside = os.dup(old)
        try:
            os.mkdir(self._name, _OWNER, dir_fd=inside)
        except OSError:
            os.close(inside)
            raise
        return inside

    def _make_root(self) -> None:
        try:
            self._private = self._keep_open(os.open(self._name, DIRECTORY, dir_fd=self._place))
            os.mkdir("tree", _PERMISSIONS, dir_fd=self._private)
            self.root = self._keep_open(os.open("tree", DIRECTORY, dir_fd=self._private))
            self._spare = self._keep_open(os.dup(self.root))
        except BaseException:
            with suppress(OSError):
                os.rmdir(f"{self._name}/tree", dir_fd=self._place)
            with suppress(OSError):
                os.rmdir(self._name, dir_fd=self._place)
            raise

    def _become_target(self) -> bool:
        """Rename the tree to a target that does not exist; False where it exists by now."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename("tree", self.target, src_dir_fd=self._private)
        except OSError as exc:
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        return True

    def _keep_open(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def _close_all(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _resolved(target: Path) -> Path:
    """Return the real place of a target: who names a link to a directory means the directory."""
    if os.path.lexists(target) and not target.is_dir():
        raise FileExistsError(errno.EEXIST, "it is there and is no directory", str(target))
    return Path(os.path.realpath(target))


def _open_if_there(path: Path) -> int | None:
    try:
        return os.open(path, DIRECTORY)
    except FileNotFoundError:
        return None


def _check_merge(source: int, target: int, place: str, budget: Budget) -> None:
    """Look for what would have to be followed or lost, before anything is moved."""
    for name in os.listdir(source):
        budget.step()
        there = mode_of(name, target)
        if there is None:
            continue
        shown = place + name
        if not is_directory(name, source):
            if stat.S_ISDIR(there):
                raise UnsafeArchiveError(shown, "the target has a directory there, which it would replace")
        elif stat.S_ISLNK(there):
            why = "the target has a symbolic link there, which is not followed, whether or not it leads outside"
            raise UnsafeArchiveError(shown, why)
        elif stat.S_ISDIR(there):
            with opened(name, source) as inner, opened(name, target) as outer:
                if os.fstat(inner).st_dev != os.fstat(outer).st_dev:
                    raise OSError(errno.EXDEV, "the target has another file system there", shown)
                _check_merge(inner, outer, f"{shown}/", budget)


def _merge(source: int, target: int) -> None:
    """Move everything from one directory to another; what is a directory in both is merged."""
    for name in os.listdir(source):
        if not is_directory(name, source):
            os.replace(name, name, src_dir_fd=source, dst_dir_fd=target)
        elif is_directory(name, target):
            _merge_directory(name, source, target)
        else:
            _move_directory(name, source, target)


def _move_directory(name: str, source: int, target: int) -> None:
    if exists(name, target):
        os.unlink(name, dir_fd=target)
    try:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    except OSError as exc:
        # Another copy into the same target has just made it.
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        _merge_directory(name, source, target)


def _merge_directory(name: str, source: int, target: int) -> None:
    with (
        opened(name, source) as inner,
        opened(name, target) as outer,
        _writable(outer, stat.S_IMODE(os.fstat(inner).st_mode)),
    ):
        _merge(inner, outer)


@contextmanager
def _writable(directory: int, mode: int) -> Iterator[None]:
    """Let the owner write in a directory that has or gets a mode which forbids it."""
    now = stat.S_IMODE(os.fstat(directory).st_mode)
    if now & _OWNER != _OWNER:
        os.fchmod(directory, now | _OWNER)
    try:
        yield
    finally:
        if mode != stat.S_IMODE(os.fstat(directory).st_mode):
            os.fchmod(directory, mode)


def _remove_all(private: int) -> None:
    """Remove everything in a directory, at any depth with one descriptor more: what is deep in it is moved up first."""
    moved = max((int(name) for name in os.listdir(private) if name.isdecimal()), default=0)
    while names := os.listdir(private):
        for name in names:
            with opened(name, private) as directory:
                for inner in os.listdir(directory):
                    if is_directory(inner, directory):
                        moved += 1
                        os.rename(inner, str(moved), src_dir_fd=directory, dst_dir_fd=private)
                    else:
                        os.unlink(inner, dir_fd=directory)
            os.rmdir(name, dir_fd=private)
