"""A sandbox's story, command by command and copy by copy, for the report of a failed test."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pytest_opensandbox.errors import CommandError
from pytest_opensandbox.results import CommandResult

HISTORY_LENGTH = 50
TAIL_BYTES = 2_000


@dataclass(frozen=True)
class CommandRecord:
    """One line of a sandbox's story: a command or a copy, and how it ended."""

    command: str | Sequence[str]
    """Text for the shell, or the argument list; of a copy, what was copied."""
    started: float
    """``time.monotonic()`` at its start; seconds."""
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


@contextmanager
def recording_copy(history: deque[CommandRecord], text: str) -> Iterator[None]:
    """Add what happens in the block to a history, however it ends.

    Args:
        history: grows by one record.
        text: says what is copied.
    """
    started = time.monotonic()
    try:
        yield
    except BaseException as exc:
        history.append(replace(record_error(text, started, exc), is_copy=True))
        raise
    history.append(CommandRecord(text, started, time.monotonic() - started, "done", is_copy=True))


def record_result(result: CommandResult, started: float) -> CommandRecord:
    """Return the record of a command that ran to its end."""
    outcome = "timed out" if result.timed_out else result.signal or f"exit {result.exit_code}"
    stdout, stderr = (
        stream[-TAIL_BYTES:].decode("utf-8", "replace") for stream in (result.stdout_bytes, result.stderr_bytes)
    )
    return CommandRecord(result.command, started, result.duration, outcome, stdout, stderr)


def record_error(command: str | Sequence[str], started: float, error: BaseException) -> CommandRecord:
    """Return the record of a command that ended in an exception."""
    stdout = error.stdout[-TAIL_BYTES:] if isinstance(error, CommandError) else ""
    stderr = error.stderr[-TAIL_BYTES:] if isinstance(error, CommandError) else ""
    return CommandRecord(command, started, time.monotonic() - started, type(error).__name__, stdout, stderr)
