"""A sandbox's story, command by command, for the report of a failed test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_opensandbox.errors import CommandError
from pytest_opensandbox.results import CommandResult

HISTORY_LENGTH = 50
TAIL_BYTES = 2_000


@dataclass(frozen=True)
class CommandRecord:
    """One line of a sandbox's story: a command and how it ended."""

    command: str | Sequence[str]
    """Text for the shell, or the argument list."""
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
