"""The copy of a tree that hostile code made.

It has directories, files with their holes, links of both kinds, pipes, whiteouts, modes, times and attributes. It
has no sockets, and no set-id bits of files: they have no effect in a sandbox, and the copy lies on the host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from .attributes import announce_whiteouts, copy_attributes, is_opaque, is_whiteout, make_opaque, make_whiteout
from .errors import RefusedError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LEVELS = 200
# Below the kernel's limit for a path, less the length of the directory in which the copy lies.
_MAX_PATH_BYTES = 3000
_CHUNK_BYTES = 8 << 20
# The name was removed or replaced in the meantime.
_CHANGED = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE})


class Budget:
    """The limits of a copy.

    Args:
        entries: of directories, at most.
        size: bytes of content, at most.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._most_entries = self._entries = entries
        self._most_bytes = self._bytes = size

    def take_entry(self) -> None:
        """Account for one entry.

        Raises:
            RefusedError: the limit is reached.
        """
        self._entries -= 1
        if self._entries < 0:
            raise RefusedError(f"there are more than {self._most_entries} files and directories to keep")

    def take_bytes(self, size: int) -> None:
        """Account for content.

        Raises:
            RefusedError: the limit is reached.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise RefusedError(f"there are more than {self._most_bytes} bytes to keep")


class Tree:
    """A tree to copy.

    Args:
        source: descriptor of its root; everything below it on another device is left out.
        target: descriptor of a directory that no other process changes.
        fixed: paths at which a sandbox has mounts or links of its own. They are not kept, and what is above them is
            kept only where it is a directory: a link there would lead the mounts of a restored sandbox astray.
        is_overlay: whether deletions are marked in it as overlays mark them.
        budget: the limits of the copy.
        keeps_owners: whether the copy is to have the owners of what is copied.
    """

    def __init__(
        self,
        source: int,
        target: int,
        *,
        fixed: list[str],
        is_overlay: bool,
        budget: Budget,
        keeps_owners: bool = False,
    ) -> None:
        self._source = source
        self._target = target
        self._fixed = frozenset(fixed)
        self._above = frozenset(above for path in fixed for above in _parents(path))
        self._is_overlay = is_overlay
        self._budget = budget
        self._keeps_owners = keeps_owners
        self._device = os.fstat(source).st_dev
        self._links: dict[int, str] = {}

    def copy(self) -> None:
        """Copy everything.

        Raises:
            RefusedError: there is too much, or a deletion cannot be kept here.
            OSError: the disk is full, and the like.
        """
        if self._copy_entries(self._source, self._target, "", level=0):
            announce_whiteouts(self._target)

    def _copy_entries(self, source: int, target: int, path: str, *, level: int) -> bool:
        """Copy the entries of a directory; say whether it must announce whiteouts."""
        if level > _MAX_LEVELS:
            raise RefusedError(f"there are more than {_MAX_LEVELS} directories inside each other")
        must_announce = False
        with os.scandir(source) as entries:
            for entry in entries:
                self._budget.take_entry()
                below = f"{path}/{entry.name}" if path else entry.name
                if len(os.fsencode(below)) > _MAX_PATH_BYTES:
                    raise RefusedError(f"there are paths of more than {_MAX_PATH_BYTES} bytes")
                with _unless_changed():
                    must_announce |= self._copy_entry(entry, source, target, below, level=level)
        return must_announce

    def _copy_entry(self, entry: os.DirEntry[str], source: int, target: int, path: str, *, level: int) -> bool:
        """Copy one entry; say whether it is a whiteout that the directory must announce."""
        status = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if path in self._fixed or (path in self._above and kind != stat.S_IFDIR):
            return False
        if kind == stat.S_IFDIR:
            self._copy_directory(entry.name, source, target, path, level=level + 1)
        elif kind == stat.S_IFREG:
            self._copy_file(entry.name, source, target, path)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=target)
            self._copy_owner(entry.name, status, target)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(entry.name, ns=times, dir_fd=target, follow_symlinks=False)
        elif kind == stat.S_IFIFO:
            os.mkfifo(entry.name, dir_fd=target)
            self._copy_owner(entry.name, status, target)
            os.chmod(entry.name, stat.S_IMODE(status.st_mode), dir_fd=target)
        elif self._is_overlay and is_whiteout(status):
            return make_whiteout(entry.name, target)
        return False

    def _copy_directory(self, name: str, source: int, target: int, path: str, *, level: int) -> None:
        with opened(name, DIRECTORY, source) as reading:
            if os.fstat(reading).st_dev != self._device:
                return
            os.mkdir(name, 0o700, dir_fd=target)
            with opened(name, DIRECTORY, target) as writing:
                must_announce = self._copy_entries(reading, writing, path, level=level)
                if self._is_overlay and path not in self._above and is_opaque(reading):
                    make_opaque(writing)
                elif must_announce:
                    announce_whiteouts(writing)
                self._copy_owner(name, os.fstat(reading), target)
                copy_attributes(reading, writing)

    def _copy_file(self, name: str, source: int, target: int, path: str) -> None:
        with opened(name, _FILE, source) as reading:
            status = os.fstat(reading)
            if not stat.S_ISREG(status.st_mode) or status.st_dev != self._device:
                return
            first = self._links.setdefault(status.st_ino, path) if status.st_nlink > 1 else path
            if first != path:
                os.link(first, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
                return
            with opened(name, _NEW_FILE, target) as writing:
                self._copy_content(reading, writing, status)
                self._copy_owner(name, status, target)
                copy_attributes(reading, writing, dropped=stat.S_ISUID | stat.S_ISGID)

    def _copy_owner(self, name: str, status: os.stat_result, target: int) -> None:
        if self._keeps_owners:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)

    def _copy_content(self, reading: int, writing: int, status: os.stat_result) -> None:
        """Copy a file's bytes, leaving its holes."""
        is_whole = status.st_blocks * 512 >= status.st_size
        for start, end in [(0, status.st_size)] if is_whole else _segments(reading, status.st_size):
            os.lseek(writing, start, os.SEEK_SET)
            while start < end:
                self._budget.take_bytes(min(_CHUNK_BYTES, end - start))
                sent = os.sendfile(writing, reading, start, min(_CHUNK_BYTES, end - start))
                if sent == 0:  # it has become shorter
                    return
                start += sent
        if not is_whole:
            os.ftruncate(writing, status.st_size)


@contextmanager
def opened(name: str, flags: int, directory: int) -> Iterator[int]:
    """Yield a descriptor of a name in a directory; a created file is for this user alone.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _unless_changed() -> Iterator[None]:
    """Skip an entry that was removed or replaced since it was listed."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CHANGED:
            raise


def _segments(reading: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of what is not a hole."""
    end = 0
    while end < size:
        try:
            start = os.lseek(reading, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole
            return
        end = min(size, os.lseek(reading, start, os.SEEK_HOLE))
        yield start, end


def _parents(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path
