"""Rules for the names and links of a tar archive from a sandbox; an archive that breaks one is refused."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Literal

from pytest_opensandbox.errors import UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.local_files import OpenDirectories, mode_of

PATH_BYTES = 4095
"""Longest path that Linux takes."""

Links = Literal["error", "skip", "keep"]
"""Policy for a symbolic link that leads outside its tree: refuse the tree, leave the link out, or keep the link."""

Parts = tuple[str, ...]
"""The names on the path from the root of a tree."""

_MAX_DEPTH = 256
_NAME_BYTES = 255


def split_name(name: str, max_bytes: int = PATH_BYTES) -> Parts:
    """Return the parts of an entry's name, none for the root.

    Args:
        name: as the archive has it.
        max_bytes: refuse a longer name.

    Raises:
        UnsafeArchiveError: the name is absolute, contains ``..``, is too long or too deep, or is no file name.
    """
    shown = name[:_NAME_BYTES]
    if name.startswith("/"):
        raise UnsafeArchiveError(shown, "its name is absolute")
    if len(os.fsencode(name)) > max_bytes:
        raise UnsafeArchiveError(shown, "its name with all its directories is too long here")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafeArchiveError(shown, "its name contains '..'")
    if "\0" in name or any(len(os.fsencode(part)) > _NAME_BYTES for part in parts):
        raise UnsafeArchiveError(shown, "no file can have its name")
    if len(parts) > _MAX_DEPTH:
        raise UnsafeArchiveError(shown, f"it lies more than {_MAX_DEPTH} directories deep")
    return parts


def check_link_target(name: str, link: str) -> None:
    """Refuse the target of a link that no file system takes.

    Raises:
        UnsafeArchiveError: the target is empty, too long, or contains NUL.
    """
    if not link or "\0" in link or len(os.fsencode(link)) > PATH_BYTES:
        raise UnsafeArchiveError(name, "its link target is empty, too long, or contains NUL")


class LinkValidator:
    """Refuses the symbolic links of a new tree that lead outside, or removes them.

    Whether a link leads outside may depend on entries after it. Such links are remembered and validated at the end.

    Args:
        directories: of the new tree.
        budget: limits the steps, and the memory for the links that are remembered.
        policy: what happens to a link that leads outside.
        merges: whether the tree will be merged into an existing one, so that all of its links are remembered.
    """

    def __init__(self, directories: OpenDirectories, budget: ArchiveBudget, policy: Links, *, merges: bool) -> None:
        self._directories = directories
        self._budget = budget
        self._policy = policy
        self._merges = merges
        self._unresolved: list[Parts] = []
        self._all: list[Parts] = []

    def check(self, name: str, parts: Parts, link: str) -> None:
        """Check a link before it is made.

        Args:
            name: of its entry.
            parts: where it will be.
            link: its target.

        Raises:
            UnsafeArchiveError: the link leads outside, whatever the tree holds, or its target is invalid.
        """
        check_link_target(name, link)
        self._budget.count_steps(1 + len(link) // 64)
        if self._policy == "keep":
            return
        is_safe = _stays_inside(len(parts) - 1, link)
        if is_safe is False and self._policy == "error":
            raise _leads_outside(name, link)
        if not is_safe:
            self._budget.count_name(parts)
            self._unresolved.append(parts)
        if self._merges:
            self._budget.count_name(parts)
            self._all.append(parts)

    def validate(self) -> None:
        """Validate the links that depend on the tree, now that the tree is complete.

        Raises:
            UnsafeArchiveError: one of them leads outside.
        """
        self._validate(self._unresolved, self._stays_in_tree)

    def validate_in_target(self, target: int, path: str) -> None:
        """Validate all links again for a target, whose own links may lead them outside.

        Args:
            target: descriptor of the tree into which the new one will be merged.
            path: its real path.

        Raises:
            UnsafeArchiveError: one of them leads outside.
        """
        with closing(OpenDirectories(target, self._budget)) as old:
            self._validate(self._all, lambda place, link: self._stays_in_target(place, link, old, path))

    def _validate(self, links: list[Parts], stays_inside: Callable[[Parts, str], bool]) -> None:
        for parts in links:
            directory = self._directories.open(parts[:-1])
            try:
                link = os.readlink(parts[-1], dir_fd=directory)
            except OSError:
                continue  # a later entry replaced it
            if stays_inside(parts[:-1], link):
                continue
            if self._policy == "error":
                raise _leads_outside("/".join(parts), link)
            os.unlink(parts[-1], dir_fd=self._directories.open(parts[:-1]))

    def _stays_in_tree(self, place: Parts, link: str) -> bool:
        """Return whether each ``..`` of a link's target leaves a directory of the tree, but not the root."""
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
        """Return whether the first link of the target on a link's path, if any, leads to a path in the target."""
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


class NameCollisions:
    """The names of an archive, for a file system where some different names are one.

    Args:
        budget: limits the memory for the names.
    """

    def __init__(self, budget: ArchiveBudget) -> None:
        self._budget = budget
        self._root: dict[str, tuple[str, dict[str, object]]] = {}

    def check(self, parts: Sequence[str]) -> None:
        """Refuse a name that the file system takes for another name of the archive.

        Raises:
            UnsafeArchiveError: a part differs from a known name in case or in accents alone.
        """
        names: dict[str, tuple[str, dict[str, object]]] = self._root
        for part in parts:
            key = _folded(part)
            if key not in names:
                self._budget.count_name([part, key])
                names[key] = (part, {})
            known, inside = names[key]
            if known != part:
                raise UnsafeArchiveError(self._budget.entry, f"to this file system {part!r} is the same as {known!r}")
            names = inside  # type: ignore[assignment]  # a recursive type cannot be written down


def _folded(name: str) -> str:
    """Return a key that is equal for names that macOS's file systems take for one."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _stays_inside(depth: int, link: str) -> bool | None:
    """Return whether a symbolic link stays in its tree, whatever else the tree holds or will hold.

    A link may first go up from its own directory, which is a real directory of the tree, and then down. It then stays
    inside even if it passes other such links. A ``..`` after a name is safe only if the name is a directory.

    Args:
        depth: how many directories below the root the link is.
        link: its target.

    Returns:
        None if it depends on the directories of the tree.
    """
    if link.startswith("/"):
        return False
    went_down = False
    for step in link.split("/"):
        if step in ("", "."):
            continue
        if step != "..":
            went_down = True
        elif went_down:
            return None
        elif depth == 0:
            return False
        else:
            depth -= 1
    return True


def _mode_in(directories: OpenDirectories, parts: list[str]) -> int | None:
    """Return type and permissions of a path in a tree, links not followed; None if it does not exist."""
    try:
        return mode_of(parts[-1], directories.open(parts[:-1]))
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise  # a path that cannot be examined may be a link that leads outside
        return None


def _is_real_path_in(root: str, parts: list[str]) -> bool:
    real = os.path.realpath(os.path.join(root, *parts))
    return os.path.commonpath([root, real]) == root


def _leads_outside(name: str, link: str) -> UnsafeArchiveError:
    to = f"the absolute path {link!r}" if link.startswith("/") else repr(link)
    why = f"it links outside the tree, to {to} (links='skip' leaves such links out, links='keep' takes them)"
    return UnsafeArchiveError(name, why)
