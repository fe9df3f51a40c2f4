"""Limits on the cost of one archive from a sandbox: steps, entries, bytes, memory and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import FileTooLargeError, UnsafeArchiveError

_SLOWEST_BYTES_PER_SECOND = 4 * 1024**2
_SECONDS_PER_ENTRY = 0.002
_STEPS_BETWEEN_TIME_CHECKS = 1024
_MAX_UNLISTED_DIRECTORIES = 10_000
"""How many more directories than entries an archive may have: tar lists each directory as an entry."""


class ArchiveBudget:
    """Counts what reading and extracting one archive costs, and refuses it at the first limit.

    Args:
        max_bytes: most bytes of all files together.
        max_entries: most entries.
        max_steps: most steps; a step is a block of headers, a directory that is opened, or a record that is read.
        max_name_bytes: most memory for names that are needed until the end; bytes.
        max_seconds: most seconds, in addition to the time that creating and writing so many files may take.
        clock: returns seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        max_entries: int = 250_000,
        max_steps: int = 8_000_000,
        max_name_bytes: int = 64 * 1024**2,
        max_seconds: float = 120.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.entry = "the archive"
        """Name of the entry that is being read, for error messages."""
        self.steps = 0
        """Steps so far."""
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._max_steps, self._max_name_bytes = max_steps, max_name_bytes
        self._bytes = self._name_bytes = self._entries = self._directories = 0
        self._clock = clock
        self._end = clock() + max_seconds
        self._next_time_check = _STEPS_BETWEEN_TIME_CHECKS

    def start_entry(self, entry: str) -> None:
        """Count an entry; later errors name it.

        Raises:
            UnsafeArchiveError: there are too many entries.
        """
        self.entry = entry
        self._entries += 1
        if self._entries > self._max_entries:
            raise UnsafeArchiveError(entry, f"the archive has more than {self._max_entries:,} entries")

    def count_directory(self) -> None:
        """Count a directory before it is made; one long name can stand for hundreds of directories.

        Raises:
            UnsafeArchiveError: there are many more directories than entries.
        """
        self._directories += 1
        if self._directories > self._entries + _MAX_UNLISTED_DIRECTORIES:
            why = f"the archive has more than {_MAX_UNLISTED_DIRECTORIES:,} directories that it does not list"
            raise UnsafeArchiveError(self.entry, why)

    def count_steps(self, count: int = 1) -> None:
        """Count steps.

        Raises:
            UnsafeArchiveError: there are too many steps, or they take too long.
        """
        self.steps += count
        if self.steps > self._max_steps:
            raise UnsafeArchiveError(self.entry, f"the archive takes more than {self._max_steps:,} steps to read")
        if self.steps >= self._next_time_check:
            self._next_time_check = self.steps + _STEPS_BETWEEN_TIME_CHECKS
            self.check_time()

    def check_time(self) -> None:
        """Refuse an archive that has taken too long.

        Raises:
            UnsafeArchiveError: the time is over.
        """
        more = self._bytes / _SLOWEST_BYTES_PER_SECOND + self._entries * _SECONDS_PER_ENTRY
        if self._clock() > self._end + more:
            raise UnsafeArchiveError(self.entry, "the archive takes too long to extract")

    def count_content(self, size: int) -> None:
        """Count the content of one file before it is written.

        Raises:
            FileTooLargeError: all files together have more bytes than allowed.
        """
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise FileTooLargeError(self.entry, size_bytes=self._bytes, max_bytes=self._max_bytes)

    def count_name(self, parts: Sequence[str]) -> None:
        """Count a name that stays in memory until the archive has been read.

        Raises:
            UnsafeArchiveError: such names take too much memory.
        """
        self._name_bytes += 128 + sum(64 + len(part) for part in parts)
        if self._name_bytes > self._max_name_bytes:
            raise UnsafeArchiveError(self.entry, f"its names take more than {self._max_name_bytes:,} bytes of memory")
