"""Limits and rules for a tar archive from a sandbox: what reading it may cost, and which names and links are safe."""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from pytest_opensandbox.errors import FileTooLargeError, UnsafeArchiveError

PATH_BYTES = 4095
"""Longest path that Linux takes."""

Links = Literal["error", "skip", "keep"]
"""What happens to a symbolic link that leads outside its tree: the tree is refused, or the link is left out or kept."""

_MAX_STEPS = 8_000_000
_MAX_KEPT_BYTES = 64 * 1024**2
_MAX_SECONDS = 120.0
_SLOWEST_BYTES_A_SECOND = 4 * 1024**2
_SECONDS_A_MEMBER = 0.002
_STEPS_BETWEEN_LOOKS = 1024
_UNLISTED_DIRECTORIES = 10_000
"""How many more directories than members an archive may have: tar lists each directory as a member."""

_DEPTH = 256
_NAME_BYTES = 255


class Budget:
    """The most that one archive may cost, in steps, in bytes and in seconds.

    Args:
        max_bytes: most that the files may have together; bytes.
        max_steps: most steps; a step is a block of headers, a directory that is opened, or a record that is read.
        max_kept_bytes: most memory for names that are needed until the end; bytes.
        max_seconds: most seconds, besides those that making and writing so many files may take.
        clock: returns seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        max_steps: int = _MAX_STEPS,
        max_kept_bytes: int = _MAX_KEPT_BYTES,
        max_seconds: float = _MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.member = "the archive"
        """Name of the member that is being read, for messages."""
        self.steps = 0
        """Steps so far."""
        self._max_bytes, self._max_steps, self._max_kept_bytes = max_bytes, max_steps, max_kept_bytes
        self._bytes = self._kept_bytes = self._members = self._directories = 0
        self._clock = clock
        self._end = clock() + max_seconds
        self._next_look = _STEPS_BETWEEN_LOOKS

    def begin(self, member: str) -> None:
        """Count a member, which is the one that later errors name."""
        self.member = member
        self._members += 1

    def make_directory(self) -> None:
        """Count a directory before it is made; one long name may stand for hundreds.

        Raises:
            UnsafeArchiveError: there are many more directories than members.
        """
        self._directories += 1
        if self._directories > self._members + _UNLISTED_DIRECTORIES:
            why = f"the archive has more than {_UNLISTED_DIRECTORIES:,} directories that it does not list"
            raise UnsafeArchiveError(self.member, why)

    def step(self, count: int = 1) -> None:
        """Count steps.

        Raises:
            UnsafeArchiveError: too many, or they take too long.
        """
        self.steps += count
        if self.steps > self._max_steps:
            raise UnsafeArchiveError(self.member, f"the archive takes more than {self._max_steps:,} steps to read")
        if self.steps >= self._next_look:
            self._next_look = self.steps + _STEPS_BETWEEN_LOOKS
            self.look_at_the_clock()

    def look_at_the_clock(self) -> None:
        """Refuse an archive that has taken too long.

        Raises:
            UnsafeArchiveError: it has.
        """
        more = self._bytes / _SLOWEST_BYTES_A_SECOND + self._members * _SECONDS_A_MEMBER
        if self._clock() > self._end + more:
            raise UnsafeArchiveError(self.member, "the archive takes too long to unpack")

    def take(self, size: int) -> None:
        """Count the content of one file before it is written.

        Raises:
            FileTooLargeError: all files together have more bytes than allowed.
        """
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise FileTooLargeError(self.member, size_bytes=self._bytes, max_bytes=self._max_bytes)

    def keep(self, parts: Sequence[str]) -> None:
        """Count a name that stays in memory until the archive has been read.

        Raises:
            UnsafeArchiveError: such names take too much memory.
        """
        self._kept_bytes += 128 + sum(64 + len(part) for part in parts)
        if self._kept_bytes > self._max_kept_bytes:
            raise UnsafeArchiveError(self.member, f"its names take more than {self._max_kept_bytes:,} bytes of memory")


def name_parts(name: str, longest: int = PATH_BYTES) -> tuple[str, ...]:
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
    if len(parts) > _DEPTH:
        raise UnsafeArchiveError(name[:_NAME_BYTES], f"it lies more than {_DEPTH} directories deep")
    return parts


def check_link_text(member: str, link: str) -> None:
    """Refuse the target of a link that no file system takes.

    Raises:
        UnsafeArchiveError: it is empty, too long, or holds NUL.
    """
    if not link or "\0" in link or len(os.fsencode(link)) > PATH_BYTES:
        raise UnsafeArchiveError(member, "it links to nothing that can be")


def stays_inside(depth: int, link: str) -> bool | None:
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


class Spellings:
    """The names of an archive, for a file system that takes some different names for one.

    Args:
        budget: what remembering them may cost.
    """

    def __init__(self, budget: Budget) -> None:
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
                self._budget.keep([part, key])
                names[key] = (part, {})
            known, inside = names[key]
            if known != part:
                raise UnsafeArchiveError(self._budget.member, f"to this file system {part!r} is the same as {known!r}")
            names = inside  # type: ignore[assignment]  # a type that holds itself cannot be written down


def _folded(name: str) -> str:
    """Return what is the same for all names that are one to macOS's file systems."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
