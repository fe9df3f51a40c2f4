"""A directory tree as a tar archive, both ways; what comes out of a sandbox is hostile until checked."""

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
    NameCollisions,
    check_link_target,
    is_real_path_in,
    leads_outside,
    link_stays_inside,
    mode_in,
    split_name,
)
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.local_files import OpenDirectories, create_file, exists, is_directory, set_modes
from pytest_opensandbox.sandbox.local_trees import StagedTree
from pytest_opensandbox.sandbox.tar_reader import TarEntry, TarReader

Parts = tuple[str, ...]

_OWNER = 0o700
_PERMISSIONS = 0o777
_NAMES_PER_LINE = 50

# Two trees in one directory would close directories in which the other one is to be moved.
_MOVE_LOCK = threading.Lock()


def pack_tree(source: Path, archive: BinaryIO, *, closing_script: str = "") -> None:
    """Write a tree as an uncompressed tar with names relative to its root.

    Permission bits, empty directories and symbolic links are kept; owners are not. Devices, sockets and FIFOs are
    left out with a SkippedFileWarning. So is, without one, what is removed while the tree is read.

    Args:
        source: the directory whose content is packed.
        archive: an open binary file, written from its present position.
        closing_script: name of a member, a shell script, that takes permissions from directories which their owner
            may not write in, where there are any; until then he may. "" leaves their modes in their own headers.

    Raises:
        OSError: a file cannot be read.
    """
    closed: dict[int, list[str]] = {}

    def prepare(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        # Some tar programs cannot write in such a directory any more, others close it too early.
        if closing_script and member.isdir() and member.mode & _OWNER != _OWNER:
            closed.setdefault(member.mode & _PERMISSIONS, []).append(member.name)
            member.mode |= _OWNER
        return member

    # GNU format: BusyBox reads its long names, not those of pax.
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in _walk(source):
            try:
                if _is_special(path):
                    warnings.warn(SkippedFileWarning(f"left out {path}: not a file, directory or link"), stacklevel=2)
                    continue
                tar.add(path, arcname=str(path.relative_to(source)), recursive=False, filter=prepare)
            except FileNotFoundError:
                continue  # it has been removed meanwhile, as from a tree that tar packs in the sandbox
        if closed:
            script = _closing_script(closed)
            member = tarfile.TarInfo(closing_script)
            member.size = len(script)
            tar.addfile(member, BytesIO(script))


def extract_tree(
    archive: BinaryIO,
    target: Path,
    *,
    max_bytes: int,
    links: Links = "error",
    budget: ArchiveBudget | None = None,
    folds_names: bool | None = None,
) -> None:
    """Write the content of a tar into a directory, which is made if need be, without touching anything outside it.

    The tree is unpacked into a private directory beside the target, and moved to the target when all of it is there
    and safe. No link is followed on the way, neither of the archive nor of the target.

    Args:
        archive: an open, uncompressed tar.
        target: becomes the root of the tree; existing files of the same name are replaced.
        max_bytes: most that all files together may have; bytes.
        links: refuse the tree for a symbolic link that leads outside, leave such a link out, or keep it as it is.
        budget: what unpacking may cost; default one with ``max_bytes``.
        folds_names: whether names that differ in case or in accents alone are one in the target's file system; by
            default this is found out.

    Raises:
        UnsafeArchiveError: a member would touch something outside, or the budget is used up; nothing was written.
        FileTooLargeError: more than ``max_bytes``; nothing was written.
        ProtocolError: not a complete tar archive; nothing was written.
        OSError: the target cannot be written.
    """
    budget = ArchiveBudget(max_bytes) if budget is None else budget
    with closing(StagedTree(target, budget)) as tree:
        extractor = _extract(archive, tree, links, budget, folds_names)
        with _MOVE_LOCK:
            root = tree.move(extractor.root_mode)
            try:
                set_modes(root, extractor.modes, budget)
            finally:
                os.close(root)


def _extract(
    archive: BinaryIO, tree: StagedTree, links: Links, budget: ArchiveBudget, folds_names: bool | None
) -> TreeExtractor:
    extractor = TreeExtractor(
        tree.root,
        budget,
        links=links,
        max_name_bytes=PATH_BYTES - len(os.fsencode(tree.target)) - 1,
        folds_names=_folds_names(tree.root) if folds_names is None else folds_names,
        merges=tree.old_root is not None,
    )
    extractor.run(archive)
    if tree.old_root is not None:
        extractor.validate_links_in_target(tree.old_root, str(tree.target))
    return extractor


def _folds_names(directory: int) -> bool:
    """Say whether a file system takes names that differ in case or in accents alone for one, as macOS's does."""
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
    """Yield everything below a directory, parents first, in the order of names; links are not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            with suppress(FileNotFoundError):
                yield from _walk(Path(entry.path))


def _is_special(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _closing_script(closed: dict[int, list[str]]) -> bytes:
    """Return a shell script that gives directories their modes, the deepest first, and last what nobody may enter."""
    lines = []
    for mode, names in sorted(closed.items(), key=lambda item: item[0] & 0o100, reverse=True):
        words = [shlex.quote(f"./{name}") for name in reversed(names)]
        starts = range(0, len(words), _NAMES_PER_LINE)
        lines += [f"chmod {mode:o} {' '.join(words[start : start + _NAMES_PER_LINE])} || exit\n" for start in starts]
    return os.fsencode("".join(lines))


class TreeExtractor:
    """Writes the members of an archive into a new tree, each of them judged by what is there already.

    Args:
        root: descriptor of the tree's root.
        budget: what it may cost.
        links: what happens to a link that leads outside.
        max_name_bytes: most that a name with its directories may have; bytes.
        folds_names: whether two names that differ in case or in accents alone are one in this tree.
        merges: whether the tree is to be merged into another one, so that all of its links are remembered.
    """

    def __init__(
        self, root: int, budget: ArchiveBudget, *, links: Links, max_name_bytes: int, folds_names: bool, merges: bool
    ) -> None:
        self.root_mode: int | None = None
        """Permission bits of the root, where the archive says them."""
        self.modes: dict[Parts, int] = {}
        """Permission bits of directories that their owner cannot write in, to be set at the end."""
        self._budget = budget
        self._links = links
        self._max_name_bytes = max_name_bytes
        self._collisions = NameCollisions(budget) if folds_names else None
        self._directories = OpenDirectories(root, budget)
        self._originals = OpenDirectories(root, budget)
        self._unresolved_links: list[Parts] = []
        self._merges = merges
        self._all_links: list[Parts] = []

    def run(self, archive: BinaryIO) -> None:
        """Write everything.

        Raises:
            UnsafeArchiveError: a member breaks a rule.
            FileTooLargeError: the files have more bytes than the budget allows.
            ProtocolError: no complete tar archive.
        """
        reader = TarReader(archive, self._budget)
        with closing(self._directories), closing(self._originals):
            for entry in reader:
                self._write(entry, reader)
            self._validate_links(self._unresolved_links, self._stays_in_tree)

    def validate_links_in_target(self, target: int, path: str) -> None:
        """Look at the links again, for a target whose own links may lead them outside.

        Args:
            target: descriptor of the tree into which this one is to be merged.
            path: its real path.

        Raises:
            UnsafeArchiveError: one of them leads outside.
        """
        with closing(self._directories), closing(OpenDirectories(target, self._budget)) as old:

            def stays_inside_tree(place: Parts, link: str) -> bool:
                return self._stays_in_target(place, link, old, path)

            self._validate_links(self._all_links, stays_inside_tree)

    def _write(self, entry: TarEntry, reader: TarReader) -> None:
        parts = split_name(entry.name, self._max_name_bytes)
        if self._collisions is not None:
            self._collisions.check(parts)
        if entry.kind == "directory":
            self._make_directory(entry, parts)
            return
        if not parts:
            raise UnsafeArchiveError(entry.name, "it takes the place of the root")
        directory = self._open_parent(entry, parts[:-1])
        if entry.kind == "file":
            self._place(entry, parts[-1], directory, lambda: self._create(entry, reader, parts[-1], directory))
        elif entry.kind == "symlink":
            self._make_link(entry, parts, directory, entry.link)
        elif entry.kind == "hardlink":
            self._make_hard_link(entry, parts, directory)
        else:
            raise UnsafeArchiveError(entry.name, "it is a device or FIFO")

    def _open_parent(self, entry: TarEntry, parts: Parts) -> int:
        try:
            return self._directories.open(parts, make=True)
        except NotADirectoryError:
            raise UnsafeArchiveError(entry.name, "its name goes through a file or a symbolic link") from None

    def _make_directory(self, entry: TarEntry, parts: Parts) -> None:
        directory = self._open_parent(entry, parts)
        if not parts:
            self.root_mode = entry.mode
        elif entry.mode & _OWNER == _OWNER:
            self.modes.pop(parts, None)
            os.fchmod(directory, entry.mode)
        else:
            self._budget.count_name(parts)
            self.modes[parts] = entry.mode

    def _place(self, entry: TarEntry, name: str, directory: int, make: Callable[[], None]) -> None:
        """Make something that takes the place of an earlier entry, as tar does, but never that of a directory."""
        try:
            make()
        except FileExistsError:
            if is_directory(name, directory):
                raise UnsafeArchiveError(entry.name, "it takes the place of a directory") from None
            os.unlink(name, dir_fd=directory)
            make()

    def _create(self, entry: TarEntry, reader: TarReader, name: str, directory: int) -> None:
        def write(file: int) -> None:
            end = 0
            for place, piece in reader.content():
                if place != end:
                    os.lseek(file, place, os.SEEK_SET)
                end = place + len(piece)
                _write_all(file, piece)
            if end < entry.size:
                os.ftruncate(file, entry.size)

        create_file(name, directory, write, entry.mode)

    def _make_link(self, entry: TarEntry, parts: Parts, directory: int, link: str) -> None:
        check_link_target(entry.name, link)
        self._budget.count_steps(1 + len(link) // 64)
        if self._links != "keep":
            safe = link_stays_inside(len(parts) - 1, link)
            if safe is False and self._links == "error":
                raise leads_outside(entry.name, link)
            if not safe:
                self._budget.count_name(parts)
                self._unresolved_links.append(parts)
            if self._merges:
                self._budget.count_name(parts)
                self._all_links.append(parts)
        self._place(entry, parts[-1], directory, lambda: os.symlink(link, parts[-1], dir_fd=directory))

    def _make_hard_link(self, entry: TarEntry, parts: Parts, directory: int) -> None:
        check_link_target(entry.name, entry.link)
        original = split_name(entry.link)
        no_file = UnsafeArchiveError(entry.name, f"it is a hard link to {entry.link!r}, which is no file before it")
        if not original or original == parts:
            raise no_file
        try:
            source = self._originals.open(original[:-1])
            kind = os.stat(original[-1], dir_fd=source, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise no_file from None
        if stat.S_ISLNK(kind):
            # It has a place of its own, from which it leads elsewhere.
            self._make_link(entry, parts, directory, os.readlink(original[-1], dir_fd=source))
        elif stat.S_ISREG(kind):
            self._place(entry, parts[-1], directory, lambda: _link(original[-1], source, parts[-1], directory))
        else:
            raise no_file

    def _validate_links(self, links: list[Parts], stays_inside_tree: Callable[[Parts, str], bool]) -> None:
        """Refuse or remove those links that lead outside, now that all of the tree is there."""
        for parts in links:
            directory = self._directories.open(parts[:-1])
            try:
                link = os.readlink(parts[-1], dir_fd=directory)
            except OSError:
                continue  # a later member took its place
            if stays_inside_tree(parts[:-1], link):
                continue
            if self._links == "error":
                raise leads_outside("/".join(parts), link)
            os.unlink(parts[-1], dir_fd=self._directories.open(parts[:-1]))

    def _stays_in_tree(self, place: Parts, link: str) -> bool:
        """Say whether each ``..`` of a link's target leaves a directory of the tree, and none the tree itself."""
        if link.startswith("/"):
            return False
        here = list(place)
        for step in link.split("/"):
            if step in ("", "."):
                continue
            if step != "..":
                here.append(step)
                continue
            try:
                self._directories.open(here)
            except OSError:
                return False
            if not here:
                return False
            here.pop()
        return True

    def _stays_in_target(self, place: Parts, link: str, old: OpenDirectories, path: str) -> bool:
        """Say whether the first link of the target that a link passes, if any, leads to a place in the target."""
        here = list(place)
        for step in link.split("/"):
            if step == "..":
                here.pop()
            elif step not in ("", "."):
                here.append(step)
                new = mode_in(self._directories, here)
                mode = mode_in(old, here) if new is None else new
                if mode is None or stat.S_ISREG(mode):
                    return True
                if stat.S_ISLNK(mode):
                    return new is not None or is_real_path_in(path, here)
        return True


def _link(original: str, source: int, name: str, directory: int) -> None:
    os.link(original, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
