"""The history of one sandbox, a record for each command and copy, which the report of a failed test shows."""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import CommandError
from pytest_opensandbox.text import counted

HISTORY_LENGTH = 50
TAIL_BYTES = 2_000


@dataclass(frozen=True)
class CommandRecord:
    """One command or copy, and how it ended."""

    command: str | Sequence[str]
    """Text for the shell, or the argument list; of a copy, what was copied."""
    started: float
    """``clock.monotonic()`` at its start; seconds."""
    duration: float
    """Seconds."""
    outcome: str
    """``exit 0``, ``SIGKILL``, ``timed out``, or the error's class."""
    stdout_tail: str = ""
    """Last 2,000 bytes, decoded."""
    stderr_tail: str = ""
    """Last 2,000 bytes, decoded."""
    is_copy: bool = False
    """Whether it is a put or a get."""
    is_note: bool = False
    """Whether it is an event of the sandbox itself, not something that the test asked for."""


class History(deque[CommandRecord]):
    """The last records of one sandbox, oldest first; older ones are only counted.

    Args:
        records: the first records.
    """

    def __init__(self, records: Iterable[CommandRecord] = ()) -> None:
        super().__init__(maxlen=HISTORY_LENGTH)
        self._commands, self._copies = array("d"), array("d")
        for record in records:
            self.append(record)

    def append(self, record: CommandRecord) -> None:
        """Add a record; a full history drops its oldest."""
        if len(self) == self.maxlen and not self[0].is_note:
            (self._copies if self[0].is_copy else self._commands).append(self[0].started)
        super().append(record)

    def forgotten(self, since: float) -> tuple[int, int]:
        """Return how many commands and how many copies were dropped.

        Args:
            since: leave out what began earlier; ``clock.monotonic()`` seconds.
        """
        commands, copies = (sum(started >= since for started in kind) for kind in (self._commands, self._copies))
        return commands, copies


def source_of(src: bytes | str | os.PathLike[str]) -> str:
    """Describe what a put copies, without its content."""
    if isinstance(src, (bytes, str)):
        return counted(len(src), "byte" if isinstance(src, bytes) else "character")
    return str(src)


def record_result(result: CommandResult, started: float) -> CommandRecord:
    """Return the record of a command that ran to its end."""
    outcome = "timed out" if result.timed_out else result.signal or f"exit {result.exit_code}"
    stdout, stderr = (
        stream[-TAIL_BYTES:].decode("utf-8", "replace") for stream in (result.stdout_bytes, result.stderr_bytes)
    )
    return CommandRecord(result.command, started, result.duration, outcome, stdout, stderr)


def record_move(old: str, new: str) -> CommandRecord:
    """Return the note that a sandbox's agent has another address, as after a pause on Kubernetes.

    Args:
        old: its address before.
        new: its address now.
    """
    text = f"its agent moved from {old} to {new}: what ran has ended, and files may be those of the image again"
    return CommandRecord(text, monotonic(), 0.0, "moved", is_note=True)


def record_note(text: str, outcome: str) -> CommandRecord:
    """Return the note of something that happened beside the commands.

    Args:
        text: what happened.
        outcome: in a word.
    """
    return CommandRecord(text, monotonic(), 0.0, outcome, is_note=True)


def record_end(why: str) -> CommandRecord:
    """Return the note that a sandbox has ended.

    Args:
        why: the reason, in a few words.
    """
    return CommandRecord(f"it is gone: {why}", monotonic(), 0.0, "gone", is_note=True)


def record_copy(title: str | Sequence[str], started: float) -> CommandRecord:
    """Return the record of a copy that was made."""
    return CommandRecord(title, started, monotonic() - started, "done", is_copy=True)


def record_error(
    command: str | Sequence[str], started: float, error: BaseException, *, is_copy: bool = False
) -> CommandRecord:
    """Return the record of a command or a copy that ended in an exception."""
    stdout = error.stdout[-TAIL_BYTES:] if isinstance(error, CommandError) else ""
    stderr = error.stderr[-TAIL_BYTES:] if isinstance(error, CommandError) else ""
    duration = monotonic() - started
    return CommandRecord(command, started, duration, type(error).__name__, stdout, stderr, is_copy=is_copy)
