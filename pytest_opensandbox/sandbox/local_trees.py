"""Trees on this machine that are built in a private staging directory and moved to their target when complete.

Files of the target are reached by descriptors, and none of its links is followed.
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
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.local_files import (
    NOT_WRITABLE,
    OPEN_DIRECTORY,
    OWNER_BITS,
    PERMISSION_BITS,
    exists,
    is_directory,
    mode_of,
    open_directory,
)


class StagedTree:
    """A tree that is extracted into a private staging directory, and then moved to its target.

    Attributes:
        root: descriptor of the new tree's root.
        target: the target's real path.
        old_root: descriptor of the target, None if it does not exist.

    Args:
        target: path that the tree becomes, or a directory that it is merged into.
        budget: counts the steps of the merge.

    Raises:
        FileExistsError: the target is a file, or a link that leads to no directory.
    """

    def __init__(self, target: Path, budget: ArchiveBudget) -> None:
        self._budget = budget
        self.target = _real_path(target)
        self.old_root = _open_if_exists(self.target)
        self._name = f".opensandbox-{secrets.token_hex(8)}"
        self._descriptors: list[int] = [] if self.old_root is None else [self.old_root]
        try:
            self._parent = self._track(self._make_staging())
            self._make_root()
        except BaseException:
            self._close_all()
            raise

    def move(self, root_mode: int | None) -> int:
        """Move the tree to its target, and return a descriptor of the target, which the caller closes.

        Args:
            root_mode: permission bits of the root if the target does not exist.

        Raises:
            UnsafeArchiveError: a link or a directory of the target is in the way; nothing was moved.
            OSError: the target cannot be written, or another file system is mounted in it where the tree has a
                directory.
        """
        if self.old_root is None and self._become_target():
            if root_mode is not None:
                os.fchmod(self.root, root_mode)
            return os.dup(self.root)
        root = os.dup(self.old_root) if self.old_root is not None else os.open(self.target, OPEN_DIRECTORY)
        try:
            _check_merge(self.root, root, "", self._budget)
            with _writable(root, stat.S_IMODE(os.fstat(root).st_mode)):
                _merge(self.root, root)
        except BaseException:
            os.close(root)
            raise
        return root

    def close(self) -> None:
        """Remove the staging directory with everything that was not moved."""
        # Removing takes two descriptors, and the process may have no others left.
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
            _remove_all(self._staging)
            os.rmdir(self._name, dir_fd=self._parent)

    def _make_staging(self) -> int:
        """Make the staging directory beside the target if possible, else in it; return the descriptor of its parent."""
        parents = (parent for parent in self.target.parents if parent.is_dir())
        beside = os.open(next(parents, self.target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        old = self.old_root
        try:
            # A rename works on one file system only.
            if old is None or os.fstat(old).st_dev == os.fstat(beside).st_dev:
                os.mkdir(self._name, OWNER_BITS, dir_fd=beside)
                return beside
        except OSError as exc:
            if old is None or exc.errno not in NOT_WRITABLE:
                os.close(beside)
                raise
        os.close(beside)
        inside = os.dup(old)
        try:
            os.mkdir(self._name, OWNER_BITS, dir_fd=inside)
        except OSError:
            os.close(inside)
            raise
        return inside

    def _make_root(self) -> None:
        try:
            self._staging = self._track(os.open(self._name, OPEN_DIRECTORY, dir_fd=self._parent))
            os.mkdir("tree", PERMISSION_BITS, dir_fd=self._staging)
            self.root = self._track(os.open("tree", OPEN_DIRECTORY, dir_fd=self._staging))
            self._spare = self._track(os.dup(self.root))
        except BaseException:
            with suppress(OSError):
                os.rmdir(f"{self._name}/tree", dir_fd=self._parent)
            with suppress(OSError):
                os.rmdir(self._name, dir_fd=self._parent)
            raise

    def _become_target(self) -> bool:
        """Rename the tree to a target that does not exist; return False if it exists by now."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename("tree", self.target, src_dir_fd=self._staging)
        except OSError as exc:
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        return True

    def _track(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def _close_all(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _real_path(target: Path) -> Path:
    """Return the real path of a target; a link to a directory stands for that directory."""
    if os.path.lexists(target) and not target.is_dir():
        raise FileExistsError(errno.EEXIST, "it exists and is no directory", str(target))
    return Path(os.path.realpath(target))


def _open_if_exists(path: Path) -> int | None:
    try:
        return os.open(path, OPEN_DIRECTORY)
    except FileNotFoundError:
        return None


def _check_merge(source: int, target: int, prefix: str, budget: ArchiveBudget) -> None:
    """Refuse a merge that would follow a link or lose a directory, before anything is moved."""
    for name in os.listdir(source):
        budget.count_steps()
        old_mode = mode_of(name, target)
        if old_mode is None:
            continue
        path = prefix + name
        if not is_directory(name, source):
            if stat.S_ISDIR(old_mode):
                raise UnsafeArchiveError(path, "the target has a directory there, which it would replace")
        elif stat.S_ISLNK(old_mode):
            why = "the target has a symbolic link there, which is not followed, whether or not it leads outside"
            raise UnsafeArchiveError(path, why)
        elif stat.S_ISDIR(old_mode):
            with open_directory(name, source) as inner, open_directory(name, target) as outer:
                if os.fstat(inner).st_dev != os.fstat(outer).st_dev:
                    raise OSError(errno.EXDEV, "the target has another file system there", path)
                _check_merge(inner, outer, f"{path}/", budget)


def _merge(source: int, target: int) -> None:
    """Move everything from one directory to another; directories that are in both are merged."""
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
        # Another copy into the same target has just made this directory.
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        _merge_directory(name, source, target)


def _merge_directory(name: str, source: int, target: int) -> None:
    with (
        open_directory(name, source) as inner,
        open_directory(name, target) as outer,
        _writable(outer, stat.S_IMODE(os.fstat(inner).st_mode)),
    ):
        _merge(inner, outer)


@contextmanager
def _writable(directory: int, mode: int) -> Iterator[None]:
    """Let the owner write in a directory during the block, and set a mode afterwards.

    Neither the present mode nor the new one need allow writing.
    """
    now = stat.S_IMODE(os.fstat(directory).st_mode)
    if now & OWNER_BITS != OWNER_BITS:
        os.fchmod(directory, now | OWNER_BITS)
    try:
        yield
    finally:
        if mode != stat.S_IMODE(os.fstat(directory).st_mode):
            os.fchmod(directory, mode)


def _remove_all(staging: int) -> None:
    """Remove everything in a directory of any depth with one more descriptor: deep directories are moved up first."""
    moved = max((int(name) for name in os.listdir(staging) if name.isdecimal()), default=0)
    while names := os.listdir(staging):
        for name in names:
            with open_directory(name, staging) as directory:
                for inner in os.listdir(directory):
                    if is_directory(inner, directory):
                        moved += 1
                        os.rename(inner, str(moved), src_dir_fd=directory, dst_dir_fd=staging)
                    else:
                        os.unlink(inner, dir_fd=directory)
            os.rmdir(name, dir_fd=staging)
