"""Rules for a tar archive from a sandbox: which names and links are safe."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Sequence
from typing import Literal

from pytest_opensandbox.errors import UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.local_files import OpenDirectories, mode_of

PATH_BYTES = 4095
"""Longest path that Linux takes."""

Links = Literal["error", "skip", "keep"]
"""What happens to a symbolic link that leads outside its tree: the tree is refused, or the link is left out or kept."""

_MAX_DEPTH = 256
_NAME_BYTES = 255


def split_name(name: str, longest: int = PATH_BYTES) -> tuple[str, ...]:
    """Return the parts of a member's name, none for the root.

    Args:
        name: as the archive has it.
        longest: most bytes that it may have.

    Raises:
        UnsafeArchiveError: it is absolute, climbs, is too long or too deep, or no file can have it.
    """
    if name.startswith("/"):
        raise UnsafeArchiveError(name[:_NAME_BYTES], "its name is absolute")
    if len(os.fsencode(name)) > longest:
        raise UnsafeArchiveError(name[:_NAME_BYTES], "its name with all its directories is too long here")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UnsafeArchiveError(name[:_NAME_BYTES], "its name climbs with '..'")
    if "\0" in name or any(len(os.fsencode(part)) > _NAME_BYTES for part in parts):
        raise UnsafeArchiveError(name[:_NAME_BYTES], "no file can have its name")
    if len(parts) > _MAX_DEPTH:
        raise UnsafeArchiveError(name[:_NAME_BYTES], f"it lies more than {_MAX_DEPTH} directories deep")
    return parts


def check_link_target(member: str, link: str) -> None:
    """Refuse the target of a link that no file system takes.

    Raises:
        UnsafeArchiveError: it is empty, too long, or holds NUL.
    """
    if not link or "\0" in link or len(os.fsencode(link)) > PATH_BYTES:
        raise UnsafeArchiveError(member, "it links to nothing that can be")


def link_stays_inside(depth: int, link: str) -> bool | None:
    """Say whether a symbolic link stays in its tree, whatever else the tree holds or will hold.

    A link may climb from its own directory, because that is a real directory of the tree, and then go down. It stays
    inside then, also where it passes other such links. A ``..`` that comes after a name is safe only where the name
    is a directory.

    Args:
        depth: how many directories below the root the link lies.
        link: its target.

    Returns:
        None where it depends on the directories of the tree.
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


class NameCollisions:
    """The names of an archive, for a file system that takes some different names for one.

    Args:
        budget: what remembering them may cost.
    """

    def __init__(self, budget: ArchiveBudget) -> None:
        self._budget = budget
        self._root: dict[str, tuple[str, dict[str, object]]] = {}

    def check(self, parts: Sequence[str]) -> None:
        """Refuse a name that is another one to the file system.

        Raises:
            UnsafeArchiveError: one of its parts differs from a known name in case or in its accents alone.
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
            names = inside  # type: ignore[assignment]  # a type that holds itself cannot be written down


def _folded(name: str) -> str:
    """Return what is the same for all names that are one to macOS's file systems."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def mode_in(directories: OpenDirectories, parts: list[str]) -> int | None:
    """Return what there is in a tree, links not followed; None for nothing."""
    try:
        return mode_of(parts[-1], directories.open(parts[:-1]))
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise  # what cannot be looked at may be a link that leads outside
        return None


def is_real_path_in(root: str, parts: list[str]) -> bool:
    """Say whether a path, links followed, lies in a directory."""
    real = os.path.realpath(os.path.join(root, *parts))
    return os.path.commonpath([root, real]) == root


def leads_outside(member: str, link: str) -> UnsafeArchiveError:
    """Return the error for a link that leads outside its tree."""
    to = f"the absolute path {link!r}" if link.startswith("/") else repr(link)
    why = f"it links outside the tree, to {to} (links='skip' leaves such links out, links='keep' takes them)"
    return UnsafeArchiveError(member, why)
