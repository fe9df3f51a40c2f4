"""A tree that is written from the members of an archive, each of them judged by what is there already."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import closing
from typing import BinaryIO

from pytest_opensandbox.errors import UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_checks import (
    Budget,
    Links,
    Spellings,
    check_link_text,
    name_parts,
    stays_inside,
)
from pytest_opensandbox.sandbox.directories import Directories, create_file, is_directory, mode_of
from pytest_opensandbox.sandbox.members import Member, Members

_OWNER = 0o700

Parts = tuple[str, ...]


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
                raise _leads_outside(member.name, link)
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
                raise _leads_outside("/".join(parts), link)
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
                new = _mode_in(self._directories, here)
                mode = _mode_in(old, here) if new is None else new
                if mode is None or stat.S_ISREG(mode):
                    return True
                if stat.S_ISLNK(mode):
                    return new is not None or _is_real_path_in(path, here)
        return True


def _mode_in(directories: Directories, parts: list[str]) -> int | None:
    """Return what there is in a tree, links not followed; None for nothing."""
    try:
        return mode_of(parts[-1], directories.enter(parts[:-1]))
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise  # what cannot be looked at may be a link that leads outside
        return None


def _is_real_path_in(root: str, parts: list[str]) -> bool:
    real = os.path.realpath(os.path.join(root, *parts))
    return os.path.commonpath([root, real]) == root


def _leads_outside(member: str, link: str) -> UnsafeArchiveError:
    to = f"the absolute path {link!r}" if link.startswith("/") else repr(link)
    why = f"it links outside the tree, to {to} (links='skip' leaves such links out, links='keep' takes them)"
    return UnsafeArchiveError(member, why)


def _link(original: str, source: int, name: str, directory: int) -> None:
    os.link(original, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
