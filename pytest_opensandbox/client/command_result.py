"""How one command ended and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pytest_opensandbox.errors import CommandError, CommandLostError, CommandTimeoutError
from pytest_opensandbox.text import brief

_KILLERS = {"SIGKILL": ", sent in the sandbox or by the kernel, which does so when memory runs out"}
# The words of Go's runtime for Linux, whatever system we run on.
_SIGNALS: Mapping[str, tuple[int, str]] = {
    "hangup": (1, "SIGHUP"),
    "interrupt": (2, "SIGINT"),
    "quit": (3, "SIGQUIT"),
    "illegal instruction": (4, "SIGILL"),
    "trace/breakpoint trap": (5, "SIGTRAP"),
    "aborted": (6, "SIGABRT"),
    "bus error": (7, "SIGBUS"),
    "floating point exception": (8, "SIGFPE"),
    "killed": (9, "SIGKILL"),
    "user defined signal 1": (10, "SIGUSR1"),
    "segmentation fault": (11, "SIGSEGV"),
    "user defined signal 2": (12, "SIGUSR2"),
    "broken pipe": (13, "SIGPIPE"),
    "alarm clock": (14, "SIGALRM"),
    "terminated": (15, "SIGTERM"),
    "stack fault": (16, "SIGSTKFLT"),
    "CPU time limit exceeded": (24, "SIGXCPU"),
    "file size limit exceeded": (25, "SIGXFSZ"),
    "virtual timer expired": (26, "SIGVTALRM"),
    "profiling timer expired": (27, "SIGPROF"),
    "I/O possible": (29, "SIGIO"),
    "power failure": (30, "SIGPWR"),
    "bad system call": (31, "SIGSYS"),
}


@dataclass(frozen=True, repr=False)
class CommandResult:
    """How one command ended and what it wrote."""

    command: str | Sequence[str]
    """Text for the shell, or the argument list."""
    exit_code: int
    """0 … 255, or minus the signal number, as in ``subprocess``."""
    stdout_bytes: bytes = b""
    """Standard output."""
    stderr_bytes: bytes = b""
    """Standard error."""
    duration: float = 0.0
    """Seconds from the request to the end of the command."""
    signal: str | None = None
    """Name such as ``SIGKILL`` where a signal ended it; shells keep SIGINT and SIGPIPE to themselves: 130 and 141."""
    timed_out: bool = False
    """Whether its own time limit ended it."""
    time_limit: float | None = None
    """Seconds that it had; None for no limit."""
    truncated: bool = False
    """Whether the middle of a stream was left out because it was beyond the cap."""
    exact: bool = False
    """Whether the bytes are those that the command wrote; False where they come from the agent's line events."""
    inexact_because: str = ""
    """Why the bytes are not those that the command wrote; "" where they are, and for ``Client.run_command``."""
    sandbox_id: str = ""
    """Where it ran."""
    command_id: str = ""
    """The agent's id of the command; of use for one that still runs in the background."""

    @property
    def stdout(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Whether it exited with 0 in its time."""
        return self.exit_code == 0 and not self.timed_out

    def check(self) -> CommandResult:
        """Return the result itself if the command exited with 0.

        Raises:
            CommandTimeoutError: its time limit ended it.
            CommandError: it exited otherwise; shows the tails of both streams.
        """
        __tracebackhide__ = True
        if self.ok:
            return self
        if self.timed_out:
            raise CommandTimeoutError(
                self.command,
                timeout_seconds=self.duration if self.time_limit is None else self.time_limit,
                stdout=self.stdout,
                stderr=self.stderr,
                sandbox_id=self.sandbox_id,
            )
        raise CommandError(
            self.command,
            exit_code=self.exit_code,
            stdout=self.stdout,
            stderr=self.stderr,
            sandbox_id=self.sandbox_id,
            outcome=f"was ended by {self.signal}{_KILLERS.get(self.signal, '')}" if self.signal else "",
        )

    def __repr__(self) -> str:
        facts = [brief(self.command), f"exit_code={self.exit_code}"]
        facts += [name for name in ("timed_out", "truncated") if getattr(self, name)]
        facts += [
            f"{name}={_shorten(text)!r}" for name, text in (("stdout", self.stdout), ("stderr", self.stderr)) if text
        ]
        return f"<CommandResult {' '.join(facts)}>"


@dataclass(frozen=True, repr=False)
class BackgroundCommand(CommandResult):
    """A command that was started in the background; it runs on, so that it has neither output nor an ending yet."""

    exit_code: None = None  # type: ignore[assignment]  # the type checker shows where it is compared with a number
    """Always None: how it ends is not known yet."""

    def check(self) -> NoReturn:
        """Raise, because nothing is known yet about the end of the command.

        Raises:
            CommandLostError: always; how it ends is not known.
        """
        __tracebackhide__ = True
        advice = "ask the agent for its status by command_id, or run it in the foreground"
        text = f"{brief(self.command)} was started in the background, and how it ends is not known yet: {advice}"
        raise CommandLostError(text, command_id=self.command_id, sandbox_id=self.sandbox_id)

    def __repr__(self) -> str:
        return f"<BackgroundCommand {brief(self.command)} command_id={self.command_id!r}>"


def read_ending(exit_code: int, traceback: Sequence[str]) -> tuple[int, str | None]:
    """Return the exit code in the manner of ``subprocess``, and the name of the signal that ended the command.

    Args:
        exit_code: the agent's number, -1 for a signal.
        traceback: the agent's lines, such as ``signal: killed``.

    Returns:
        0 … 255 and None; or minus the signal's number and its name; -1 and the agent's own word for an unknown one.
    """
    if exit_code >= 0:
        return exit_code, None
    words = next((line.removeprefix("signal: ") for line in traceback if line.startswith("signal: ")), "unknown")
    number, name = _SIGNALS.get(words.removesuffix(" (core dumped)"), (1, words))
    return -number, name


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}…{text[-20:]}"
