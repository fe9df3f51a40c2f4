"""The most that one archive from a sandbox may cost: steps, bytes and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pytest_opensandbox.errors import FileTooLargeError, UnsafeArchiveError

_MAX_STEPS = 8_000_000
_MAX_KEPT_BYTES = 64 * 1024**2
_MAX_SECONDS = 120.0
_SLOWEST_BYTES_A_SECOND = 4 * 1024**2
_SECONDS_A_MEMBER = 0.002
_STEPS_BETWEEN_LOOKS = 1024
_UNLISTED_DIRECTORIES = 10_000
"""How many more directories than members an archive may have: tar lists each directory as a member."""


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
