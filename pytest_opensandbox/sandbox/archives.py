"""Directory trees as tar archives: packed for a sandbox, and extracted safely from one."""

from __future__ import annotations

import os
import shlex
import stat
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pytest_opensandbox.errors import SkippedFileWarning, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_checks import (
    PATH_BYTES,
    Links,
    LinkValidator,
    NameCollisions,
    Parts,
    check_link_target,
    split_name,
)
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.local_files import (
    OWNER_BITS,
    PERMISSION_BITS,
    OpenDirectories,
    create_file,
    exists,
    is_directory,
    set_modes,
)
from pytest_opensandbox.sandbox.local_trees import StagedTree
from pytest_opensandbox.sandbox.tar_reader import TarEntry, TarReader

_NAMES_PER_LINE = 50

# One copy must not make directories read-only into which another copy is about to move its files.
_MOVE_LOCK = threading.Lock()


def pack_tree(source: Path, archive: BinaryIO, *, closing_script: str = "") -> None:
    """Write a tree as an uncompressed tar with names relative to its root.

    Permission bits, empty directories and symbolic links are kept; owners are not. Devices, sockets and FIFOs are
    left out with a SkippedFileWarning. Files that are removed while the tree is read are left out without one.

    Args:
        source: the directory whose content is packed.
        archive: an open binary file, written from its present position.
        closing_script: name of an entry that is added if the tree has directories in which their owner may not write:
            a shell script that takes these permissions away. Until it runs, the directories are writable. With ""
            their headers have their own modes.

    Raises:
        OSError: a file cannot be read.
    """
    closed: dict[int, list[str]] = {}

    def prepare(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        # Some tar programs cannot write in such a directory afterwards, others set its mode too early.
        if closing_script and info.isdir() and info.mode & OWNER_BITS != OWNER_BITS:
            closed.setdefault(info.mode & PERMISSION_BITS, []).append(info.name)
            info.mode |= OWNER_BITS
        return info

    # GNU format: BusyBox reads its long names, not those of pax.
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in _walk(source):
            try:
                if _is_special(path):
                    warnings.warn(SkippedFileWarning(f"left out {path}: not a file, directory or link"), stacklevel=2)
                    continue
                tar.add(path, arcname=str(path.relative_to(source)), recursive=False, filter=prepare)
            except FileNotFoundError:
                continue  # removed meanwhile
        if closed:
            script = _closing_script(closed)
            info = tarfile.TarInfo(closing_script)
            info.size = len(script)
            tar.addfile(info, BytesIO(script))


def extract_tree(
    archive: BinaryIO,
    target: Path,
    budget: ArchiveBudget,
    *,
    links: Links = "error",
    folds_names: bool | None = None,
) -> None:
    """Write the content of a tar into a directory without touching anything outside it.

    The tree is extracted into a staging directory beside the target, and moved to the target when it is complete and
    safe. No link is followed, neither of the archive nor of the target.

    Args:
        archive: an open, uncompressed tar.
        target: the root of the tree, created if missing; existing files of the same name are replaced.
        budget: limits what extracting may cost.
        links: refuse the tree for a symbolic link that leads outside, leave such a link out, or keep it as it is.
        folds_names: whether names that differ in case or in accents alone are one in the target's file system; by
            default this is found out.

    Raises:
        UnsafeArchiveError: an entry would touch something outside, or the budget is used up; nothing was written.
        FileTooLargeError: the files have more bytes than the budget allows; nothing was written.
        ProtocolError: this is no complete tar archive; nothing was written.
        OSError: the target cannot be written.
    """
    with closing(StagedTree(target, budget)) as tree:
        folds_names = _folds_names(tree.root) if folds_names is None else folds_names
        extractor = TreeExtractor(tree, budget, links, folds_names=folds_names)
        extractor.extract(archive)
        with _MOVE_LOCK:
            root = tree.move(extractor.root_mode)
            try:
                set_modes(root, extractor.modes, budget)
            finally:
                os.close(root)


class TreeExtractor:
    """Writes the entries of an archive into a new tree, and checks each against the tree so far.

    Args:
        tree: the new tree, still empty.
        budget: limits what extracting may cost.
        links: policy for links that lead outside.
        folds_names: whether two names that differ in case or in accents alone are one in this tree.
    """

    def __init__(self, tree: StagedTree, budget: ArchiveBudget, links: Links, *, folds_names: bool) -> None:
        self.root_mode: int | None = None
        """Permission bits of the root, if the archive has an entry for it."""
        self.modes: dict[Parts, int] = {}
        """Permission bits of directories in which their owner cannot write, to be set at the end."""
        self._tree = tree
        self._budget = budget
        self._max_name_bytes = PATH_BYTES - len(os.fsencode(tree.target)) - 1
        self._collisions = NameCollisions(budget) if folds_names else None
        self._directories = OpenDirectories(tree.root, budget)
        self._originals = OpenDirectories(tree.root, budget)
        self._links = LinkValidator(self._directories, budget, links, merges=tree.old_root is not None)

    def extract(self, archive: BinaryIO) -> None:
        """Write all entries.

        Raises:
            UnsafeArchiveError: an entry breaks a rule.
            FileTooLargeError: the files have more bytes than the budget allows.
            ProtocolError: this is no complete tar archive.
        """
        reader = TarReader(archive, self._budget)
        with closing(self._directories), closing(self._originals):
            for entry in reader:
                self._write(entry, reader)
            self._links.validate()
        if self._tree.old_root is not None:
            with closing(self._directories):
                self._links.validate_in_target(self._tree.old_root, str(self._tree.target))

    def _write(self, entry: TarEntry, reader: TarReader) -> None:
        parts = split_name(entry.name, self._max_name_bytes)
        if self._collisions is not None:
            self._collisions.check(parts)
        if entry.kind == "directory":
            self._write_directory(entry, parts)
            return
        if not parts:
            raise UnsafeArchiveError(entry.name, "it would replace the root")
        directory = self._open_or_make(entry, parts[:-1])
        if entry.kind == "file":
            self._replace(entry, parts[-1], directory, lambda: _write_file(entry, reader, parts[-1], directory))
        elif entry.kind == "symlink":
            self._write_link(entry, parts, directory, entry.link)
        elif entry.kind == "hardlink":
            self._write_hard_link(entry, parts, directory)
        else:
            raise UnsafeArchiveError(entry.name, "it is a device or FIFO")

    def _open_or_make(self, entry: TarEntry, parts: Parts) -> int:
        try:
            return self._directories.open(parts, make=True)
        except NotADirectoryError:
            raise UnsafeArchiveError(entry.name, "its name goes through a file or a symbolic link") from None

    def _write_directory(self, entry: TarEntry, parts: Parts) -> None:
        directory = self._open_or_make(entry, parts)
        if not parts:
            self.root_mode = entry.mode
        elif entry.mode & OWNER_BITS == OWNER_BITS:
            self.modes.pop(parts, None)
            os.fchmod(directory, entry.mode)
        else:
            self._budget.count_name(parts)
            self.modes[parts] = entry.mode

    def _replace(self, entry: TarEntry, name: str, directory: int, make: Callable[[], None]) -> None:
        """Make a file or link; it replaces an earlier entry, as with tar, but never a directory."""
        try:
            make()
        except FileExistsError:
            if is_directory(name, directory):
                raise UnsafeArchiveError(entry.name, "it would replace a directory") from None
            os.unlink(name, dir_fd=directory)
            make()

    def _write_link(self, entry: TarEntry, parts: Parts, directory: int, link: str) -> None:
        self._links.check(entry.name, parts, link)
        self._replace(entry, parts[-1], directory, lambda: os.symlink(link, parts[-1], dir_fd=directory))

    def _write_hard_link(self, entry: TarEntry, parts: Parts, directory: int) -> None:
        check_link_target(entry.name, entry.link)
        original = split_name(entry.link)
        no_file = UnsafeArchiveError(entry.name, f"it is a hard link to {entry.link!r}, which is no file before it")
        if not original or original == parts:
            raise no_file
        try:
            source = self._originals.open(original[:-1])
            mode = os.stat(original[-1], dir_fd=source, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise no_file from None
        if stat.S_ISLNK(mode):
            # From here the same target leads elsewhere: it is checked like a new link.
            self._write_link(entry, parts, directory, os.readlink(original[-1], dir_fd=source))
        elif stat.S_ISREG(mode):
            self._replace(entry, parts[-1], directory, lambda: _link(original[-1], source, parts[-1], directory))
        else:
            raise no_file


def _write_file(entry: TarEntry, reader: TarReader, name: str, directory: int) -> None:
    def write(file: int) -> None:
        end = 0
        for offset, piece in reader.content():
            if offset != end:
                os.lseek(file, offset, os.SEEK_SET)
            end = offset + len(piece)
            _write_all(file, piece)
        if end < entry.size:
            os.ftruncate(file, entry.size)

    create_file(name, directory, write, entry.mode)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _link(original: str, source: int, name: str, directory: int) -> None:
    os.link(original, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)


def _folds_names(directory: int) -> bool:
    """Return whether names that differ in case or in accents alone are one in a file system, as on macOS."""
    accents = (os.fsdecode("\u00e9".encode()), os.fsdecode("e\u0301".encode()))
    return any(_are_same_name(*names, directory) for names in (("Opensandbox", "opensandbox"), accents))


def _are_same_name(name: str, other: str, directory: int) -> bool:
    try:
        os.mkdir(name, dir_fd=directory)
    except OSError:
        return False  # this file system has no such names
    try:
        return exists(other, directory)
    finally:
        os.rmdir(name, dir_fd=directory)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield everything below a directory, parents first, sorted by name; links are not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            with suppress(FileNotFoundError):
                yield from _walk(Path(entry.path))


def _is_special(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _closing_script(closed: dict[int, list[str]]) -> bytes:
    """Return a shell script that sets the modes of directories: the deepest first, and those without x last."""
    lines = []
    for mode, names in sorted(closed.items(), key=lambda item: item[0] & 0o100, reverse=True):
        words = [shlex.quote(f"./{name}") for name in reversed(names)]
        starts = range(0, len(words), _NAMES_PER_LINE)
        lines += [f"chmod {mode:o} {' '.join(words[start : start + _NAMES_PER_LINE])} || exit\n" for start in starts]
    return os.fsencode("".join(lines))
