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
    Spellings,
    check_link_text,
    is_real_path_in,
    leads_outside,
    mode_in,
    name_parts,
    stays_inside,
)
from pytest_opensandbox.sandbox.archive_limits import Budget
from pytest_opensandbox.sandbox.local_files import Directories, create_file, exists, is_directory, set_modes
from pytest_opensandbox.sandbox.local_trees import NewTree
from pytest_opensandbox.sandbox.tar_reader import Member, Members

Parts = tuple[str, ...]

_OWNER = 0o700
_PERMISSIONS = 0o777
_NAMES_A_LINE = 50

# Two trees in one directory would close directories in which the other one is to be moved.
_MOVING = threading.Lock()


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
            script = _closing(closed)
            member = tarfile.TarInfo(closing_script)
            member.size = len(script)
            tar.addfile(member, BytesIO(script))


def extract_tree(
    archive: BinaryIO, target: Path, *, max_bytes: int, links: Links = "error", budget: Budget | None = None
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

    Raises:
        UnsafeArchiveError: a member would touch something outside, or the budget is used up; nothing was written.
        FileTooLargeError: more than ``max_bytes``; nothing was written.
        ProtocolError: not a complete tar archive; nothing was written.
        OSError: the target cannot be written.
    """
    budget = Budget(max_bytes) if budget is None else budget
    with closing(NewTree(target, budget)) as tree:
        unpacking = _unpack(archive, tree, links, budget)
        with _MOVING:
            root = tree.move(unpacking.root_mode)
            try:
                set_modes(root, unpacking.modes, budget)
            finally:
                os.close(root)


def _unpack(archive: BinaryIO, tree: NewTree, links: Links, budget: Budget) -> Unpacking:
    unpacking = Unpacking(
        tree.root,
        budget,
        links=links,
        longest_name=PATH_BYTES - len(os.fsencode(tree.target)) - 1,
        is_folding=_is_folding(tree.root),
        is_merged=tree.old_root is not None,
    )
    unpacking.run(archive)
    if tree.old_root is not None:
        unpacking.judge_links_in(tree.old_root, str(tree.target))
    return unpacking


def _is_folding(directory: int) -> bool:
    """Say whether a file system takes names that differ in case or in accents alone for one, as macOS's does."""
    accents = (os.fsdecode("\u00e9".encode()), os.fsdecode("e\u0301".encode()))
    return any(_are_one(*names, directory) for names in (("Opensandbox", "opensandbox"), accents))


def _are_one(name: str, other: str, directory: int) -> bool:
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


def _closing(closed: dict[int, list[str]]) -> bytes:
    """Return a shell script that gives directories their modes, the deepest first, and last what nobody may enter."""
    lines = []
    for mode, names in sorted(closed.items(), key=lambda item: item[0] & 0o100, reverse=True):
        words = [shlex.quote(f"./{name}") for name in reversed(names)]
        starts = range(0, len(words), _NAMES_A_LINE)
        lines += [f"chmod {mode:o} {' '.join(words[start : start + _NAMES_A_LINE])} || exit\n" for start in starts]
    return os.fsencode("".join(lines))


class Unpacking:
    """Writes the members of an archive into a new tree, each of them judged by what is there already.

    Args:
        root: descriptor of the tree's root.
        budget: what it may cost.
        links: what happens to a link that leads outside.
        longest_name: most that a name with its directories may have; bytes.
        is_folding: whether two names that differ in case or in accents alone are one in this tree.
        is_merged: whether the tree is to be merged into another one, so that all of its links are remembered.
    """

    def __init__(
        self, root: int, budget: Budget, *, links: Links, longest_name: int, is_folding: bool, is_merged: bool
    ) -> None:
        self.root_mode: int | None = None
        """Permission bits of the root, where the archive says them."""
        self.modes: dict[Parts, int] = {}
        """Permission bits of directories that their owner cannot write in, to be set at the end."""
        self._budget = budget
        self._links = links
        self._longest_name = longest_name
        self._spellings = Spellings(budget) if is_folding else None
        self._directories = Directories(root, budget)
        self._originals = Directories(root, budget)
        self._suspects: list[Parts] = []
        self._is_merged = is_merged
        self._all_links: list[Parts] = []

    def run(self, archive: BinaryIO) -> None:
        """Write everything.

        Raises:
            UnsafeArchiveError: a member breaks a rule.
            FileTooLargeError: the files have more bytes than the budget allows.
            ProtocolError: no complete tar archive.
        """
        members = Members(archive, self._budget)
        with closing(self._directories), closing(self._originals):
            for member in members:
                self._write(member, members)
            self._judge(self._suspects, self._is_inside)

    def judge_links_in(self, target: int, path: str) -> None:
        """Look at the links again, for a target whose own links may lead them outside.

        Args:
            target: descriptor of the tree into which this one is to be merged.
            path: its real path.

        Raises:
            UnsafeArchiveError: one of them leads outside.
        """
        with closing(self._directories), closing(Directories(target, self._budget)) as old:

            def is_inside(place: Parts, link: str) -> bool:
                return self._is_inside_target(place, link, old, path)

            self._judge(self._all_links, is_inside)

    def _write(self, member: Member, members: Members) -> None:
        parts = name_parts(member.name, self._longest_name)
        if self._spellings is not None:
            self._spellings.check(parts)
        if member.kind == "directory":
            self._make_directory(member, parts)
            return
        if not parts:
            raise UnsafeArchiveError(member.name, "it takes the place of the root")
        directory = self._enter(member, parts[:-1])
        if member.kind == "file":
            self._place(member, parts[-1], directory, lambda: self._create(member, members, parts[-1], directory))
        elif member.kind == "symlink":
            self._make_link(member, parts, directory, member.link)
        elif member.kind == "hardlink":
            self._make_hard_link(member, parts, directory)
        else:
            raise UnsafeArchiveError(member.name, "it is a device or FIFO")

    def _enter(self, member: Member, parts: Parts) -> int:
        try:
            return self._directories.enter(parts, make=True)
        except NotADirectoryError:
            raise UnsafeArchiveError(member.name, "its name goes through a file or a symbolic link") from None

    def _make_directory(self, member: Member, parts: Parts) -> None:
        directory = self._enter(member, parts)
        if not parts:
            self.root_mode = member.mode
        elif member.mode & _OWNER == _OWNER:
            self.modes.pop(parts, None)
            os.fchmod(directory, member.mode)
        else:
            self._budget.keep(parts)
            self.modes[parts] = member.mode

    def _place(self, member: Member, name: str, directory: int, make: Callable[[], None]) -> None:
        """Make something that takes the place of an earlier member, as tar does, but never that of a directory."""
        try:
            make()
        except FileExistsError:
            if is_directory(name, directory):
                raise UnsafeArchiveError(member.name, "it takes the place of a directory") from None
            os.unlink(name, dir_fd=directory)
            make()

    def _create(self, member: Member, members: Members, name: str, directory: int) -> None:
        def write(file: int) -> None:
            end = 0
            for place, piece in members.content():
                if place != end:
                    os.lseek(file, place, os.SEEK_SET)
                end = place + len(piece)
                _write_all(file, piece)
            if end < member.size:
                os.ftruncate(file, member.size)

        create_file(name, directory, write, member.mode)

    def _make_link(self, member: Member, parts: Parts, directory: int, link: str) -> None:
        check_link_text(member.name, link)
        self._budget.step(1 + len(link) // 64)
        if self._links != "keep":
            safe = stays_inside(len(parts) - 1, link)
            if safe is False and self._links == "error":
                raise leads_outside(member.name, link)
            if not safe:
                self._budget.keep(parts)
                self._suspects.append(parts)
            if self._is_merged:
                self._budget.keep(parts)
                self._all_links.append(parts)
        self._place(member, parts[-1], directory, lambda: os.symlink(link, parts[-1], dir_fd=directory))

    def _make_hard_link(self, member: Member, parts: Parts, directory: int) -> None:
        check_link_text(member.name, member.link)
        original = name_parts(member.link)
        no_file = UnsafeArchiveError(member.name, f"it is a hard link to {member.link!r}, which is no file before it")
        if not original or original == parts:
            raise no_file
        try:
            source = self._originals.enter(original[:-1])
            kind = os.stat(original[-1], dir_fd=source, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise no_file from None
        if stat.S_ISLNK(kind):
            # It has a place of its own, from which it leads elsewhere.
            self._make_link(member, parts, directory, os.readlink(original[-1], dir_fd=source))
        elif stat.S_ISREG(kind):
            self._place(member, parts[-1], directory, lambda: _link(original[-1], source, parts[-1], directory))
        else:
            raise no_file

    def _judge(self, links: list[Parts], is_inside: Callable[[Parts, str], bool]) -> None:
        """Refuse or remove those links that lead outside, now that all of the tree is there."""
        for parts in links:
            directory = self._directories.enter(parts[:-1])
            try:
                link = os.readlink(parts[-1], dir_fd=directory)
            except OSError:
                continue  # a later member took its place
            if is_inside(parts[:-1], link):
                continue
            if self._links == "error":
                raise leads_outside("/".join(parts), link)
            os.unlink(parts[-1], dir_fd=self._directories.enter(parts[:-1]))

    def _is_inside(self, place: Parts, link: str) -> bool:
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
                self._directories.enter(here)
            except OSError:
                return False
            if not here:
                return False
            here.pop()
        return True

    def _is_inside_target(self, place: Parts, link: str, old: Directories, path: str) -> bool:
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
