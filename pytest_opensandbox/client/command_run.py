"""One command: the request for it, and the events of the agent gathered into a result."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_opensandbox.advice import with_start_advice
from pytest_opensandbox.client.command_result import BackgroundCommand, CommandResult, read_ending
from pytest_opensandbox.client.event_stream import Event, EventError
from pytest_opensandbox.client.models import text_bytes
from pytest_opensandbox.client.sandbox_opts import check_env
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import CommandLostError, CommandStartError, CommandTimeoutError, ConfigError
from pytest_opensandbox.text import brief
from pytest_opensandbox.transport.retry import check_seconds
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, Timeouts

MAX_STREAM_BYTES = 16 * 1024 * 1024

_HIGHEST_EXIT_CODE = 255
_LEAST_SECONDS = 0.02
_INTEGER = re.compile(r"-?[0-9]{1,9}")

Callback = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CommandRequest:
    """The request that the agent gets.

    Raises:
        ConfigError: a value breaks a rule; names the field and the rule.

    Source: specs/execd-api.yaml, POST /command.
    """

    command: str | Sequence[str]
    """Text for the sandbox's shell, or an argument list."""
    cwd: str | None = None
    """Working directory, which must exist; the agent expands ``~`` and ``$NAME`` in it."""
    timeout: float | None = None
    """Seconds until it is killed with its children, > 0; None for no limit."""
    env: Mapping[str, str] | None = None
    """Variables on top of the sandbox's own."""
    uid: int | None = None
    """User to run as."""
    gid: int | None = None
    """Group to run as; default the number of the user."""
    background: bool = False
    """Whether to return as soon as it was started."""
    shown_as: str | Sequence[str] | None = None
    """The command that errors and the result show where another is wrapped around it; None for itself."""

    def __post_init__(self) -> None:
        check_command(self.command)
        if not isinstance(self.command, str) and self.command[0].startswith("-"):
            raise ConfigError("command", "begin with a program's name, which has no leading dash", self.command)
        check_directory(self.cwd)
        check_time_limit(self.timeout)
        if self.env:
            check_env(self.env)
        check_user(self.uid, self.gid)

    @property
    def name(self) -> str | Sequence[str]:
        """The command that errors and the result show."""
        return self.command if self.shown_as is None else self.shown_as

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object of POST /command; its time limit is in milliseconds."""
        body: dict[str, Any] = {"command": shell_text(self.command), "background": self.background}
        if self.cwd is not None:
            body["cwd"] = self.cwd
        if self.timeout is not None:
            body["timeout"] = max(math.ceil(self.timeout * 1000), 1)
        if self.env:
            body["envs"] = dict(self.env)
        if self.uid is not None:
            # A user without a group of its own gets root's.
            body["uid"], body["gid"] = self.uid, self.uid if self.gid is None else self.gid
        return body


class HeadTailBuffer:
    """Keeps the beginning and the end of a stream, and never much more than ``max_bytes`` of it.

    Args:
        max_bytes: most that is kept; bytes, > 0.
    """

    def __init__(self, max_bytes: int) -> None:
        self._tail_bytes = max_bytes // 2
        self._head_bytes = max_bytes - self._tail_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._written = 0

    @property
    def truncated(self) -> bool:
        """Whether something was left out."""
        return self._written > self._head_bytes + self._tail_bytes

    def write(self, data: bytes) -> None:
        """Add to the end."""
        self._written += len(data)
        free = self._head_bytes - len(self._head)
        self._head += data[:free]
        self._tail += data[free:]
        if len(self._tail) > 2 * self._tail_bytes:
            del self._tail[: len(self._tail) - self._tail_bytes]

    def content(self) -> bytes:
        """Return what was kept."""
        return bytes(self._head + self._tail[max(len(self._tail) - self._tail_bytes, 0) :])

    def text(self) -> str:
        """Return what was kept as text; bytes that are not UTF-8 become U+FFFD."""
        return self.content().decode("utf-8", "replace")


class CapturedStream:
    """One stream of a command, put together from its lines.

    Args:
        max_bytes: most that is kept; bytes, > 0.
        callback: called with each line, without its end.
    """

    def __init__(self, max_bytes: int, callback: Callback | None) -> None:
        self.buffer = HeadTailBuffer(max_bytes)
        """The stream, without the end of its last line, which the agent leaves out."""
        self.has_lines = False
        """Whether the agent has sent a line of it."""
        self._callback = callback

    def add_line(self, line: str) -> None:
        """Add one line as the agent sends it."""
        # The agent sends an empty line as "\n", and every other one without its end.
        line = "" if line == "\n" else line
        if self.has_lines:
            self.buffer.write(b"\n")
        self.has_lines = True
        self.buffer.write(line.encode("utf-8", "surrogatepass"))
        if self._callback is not None:
            self._callback(line)


class CommandRun:
    """Gathers the events of one command until its end.

    Args:
        request: what was asked for.
        sandbox_id: where it runs.
        max_bytes: most that is kept of each stream; bytes, > 0.
        on_stdout: called with each line of standard output, without its end.
        on_stderr: called with each line of standard error, without its end.
        timeouts: how long the agent may be silent, and how long after its time limit a command is given up.
    """

    def __init__(
        self,
        request: CommandRequest,
        *,
        sandbox_id: str = "",
        max_bytes: int = MAX_STREAM_BYTES,
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        if max_bytes < 1:
            raise ConfigError("max_bytes", "be more than 0", max_bytes)
        self.request = request
        self.sandbox_id = sandbox_id
        self.command_id = ""
        """The agent's id of the command, "" until its first event."""
        self.has_all_output = False
        """Whether the agent has sent all output; the event that ends the command may still be missing."""
        self._streams = {"stdout": CapturedStream(max_bytes, on_stdout), "stderr": CapturedStream(max_bytes, on_stderr)}
        self._timeouts = timeouts
        self._started = monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the request."""
        return monotonic() - self._started

    def add_event(self, event: Event) -> CommandResult | None:
        """Take in one event.

        Returns:
            The result at the event that ends the command, else None.

        Raises:
            CommandStartError: it could not be started.
            CommandLostError: the agent gave it up.
        """
        if event.type in self._streams:
            self._streams[event.type].add_line(event.text)
        elif event.type == "init":
            self.command_id = event.text
        elif event.type == "execution_complete":
            return self.background_result() if self.request.background else self._result(0, None)
        elif event.type == "error" or event.error is not None:
            return self._failed(event.type, event.error or EventError())
        return None

    def read_seconds(self) -> float:
        """Return how long the next read of events may take; seconds, > 0.

        Raises:
            CommandTimeoutError: the command's time limit and the grace have passed; holds what it has written.
        """
        silence = self._timeouts.silence_seconds if self.command_id else self._timeouts.first_byte_seconds
        limit = self.request.timeout
        if limit is None or self.request.background:
            return silence
        left = limit + self._timeouts.grace_seconds - self.elapsed
        # A read that used up what was left of the time may end a moment before it.
        if left > _LEAST_SECONDS:
            return min(silence, left)
        raise CommandTimeoutError(
            self.request.name,
            timeout_seconds=limit,
            stdout=self._streams["stdout"].buffer.text(),
            stderr=self._streams["stderr"].buffer.text(),
            sandbox_id=self.sandbox_id,
        )

    def lost_error(self, why: str) -> CommandLostError:
        """Return the error for a command whose end is not known."""
        text = f"{brief(self.request.name)}: {why}"
        return CommandLostError(text, command_id=self.command_id, sandbox_id=self.sandbox_id)

    def background_result(self) -> BackgroundCommand:
        """Return the result of a command that was started in the background; it has not ended yet."""
        return BackgroundCommand(
            self.request.name, duration=self.elapsed, sandbox_id=self.sandbox_id, command_id=self.command_id
        )

    def result_from_status(self, exit_code: object, error: object) -> CommandResult | None:
        """Return the result with the ending from the agent's status; None where output may be missing.

        Args:
            exit_code: the agent's number, -1 for a signal.
            error: the agent's line, such as ``signal: killed``.
        """
        if not self.has_all_output or type(exit_code) is not int or not -1 <= exit_code <= _HIGHEST_EXIT_CODE:
            return None
        return self._result(*read_ending(exit_code, [str(error or "")]))

    def _failed(self, kind: str, error: EventError) -> CommandResult:
        if _INTEGER.fullmatch(error.evalue.strip()):
            return self._result(*read_ending(int(error.evalue), error.traceback))
        why = ": ".join(part for part in (error.ename, error.evalue) if part) or "the agent gives no reason"
        # An error after output, or one that is no event, means that the agent itself failed during the command.
        if kind != "error" or any(stream.has_lines for stream in self._streams.values()):
            raise self.lost_error(f"the agent gave it up ({why})")
        raise CommandStartError(
            self.request.name, why=with_start_advice(error.evalue or why), sandbox_id=self.sandbox_id
        )

    def _result(self, exit_code: int, signal: str | None) -> CommandResult:
        elapsed, limit = self.elapsed, self.request.timeout
        return CommandResult(
            command=self.request.name,
            exit_code=exit_code,
            stdout_bytes=self._streams["stdout"].buffer.content(),
            stderr_bytes=self._streams["stderr"].buffer.content(),
            duration=elapsed,
            signal=signal,
            # The agent reports a time limit and an out-of-memory kill in the same way; only the time differs.
            timed_out=signal == "SIGKILL" and limit is not None and elapsed >= limit,
            time_limit=limit,
            truncated=any(stream.buffer.truncated for stream in self._streams.values()),
            sandbox_id=self.sandbox_id,
            command_id=self.command_id,
        )


def shell_text(command: str | Sequence[str]) -> str:
    """Return a command as text for the sandbox's shell; an argument list becomes ``exec`` and its words, quoted.

    ``exec`` makes the shell look for a program: without it ``["echo", …]`` would be the shell's own echo,
    and ``["A=1"]`` an assignment.
    """
    return command if isinstance(command, str) else f"exec {shlex.join(command)}"


def check_directory(cwd: str | None) -> None:
    """Refuse a value that cannot be a working directory.

    Raises:
        ConfigError: not absolute, or with NUL. None is allowed, and so is a path that the agent makes absolute.
    """
    if cwd is not None and (not isinstance(cwd, str) or not cwd.startswith(("/", "~", "$")) or "\0" in cwd):
        raise ConfigError("cwd", "be the absolute path of a directory in the sandbox, such as '/workspace'", cwd)


def check_time_limit(timeout: float | None) -> None:
    """Refuse a value that is not a time limit.

    Raises:
        ConfigError: no number, not more than 0, or longer than a year.
    """
    if timeout is not None:
        check_seconds("timeout", timeout, rule="be seconds, more than 0, or None for no limit")


def check_user(uid: int | None, gid: int | None) -> None:
    """Refuse values that are no user and group.

    Raises:
        ConfigError: negative, no whole number, or a group without a user.
    """
    for name, number in (("uid", uid), ("gid", gid)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
            raise ConfigError(name, "be a number, 0 or more", number)
    if gid is not None and uid is None:
        raise ConfigError("gid", "come with a uid", gid)


def check_command(command: str | Sequence[str]) -> None:
    """Refuse a command that no process can get.

    Raises:
        ConfigError: neither text nor a list of texts, empty, or with NUL or characters that UTF-8 cannot write.
    """
    words = [command] if isinstance(command, str) else list(command) if isinstance(command, Iterable) else []
    if not words or not words[0] or not all(isinstance(word, str) for word in words):
        raise ConfigError("command", "be text, or a list of texts that begins with a program", command)
    if any("\0" in word for word in words):
        raise ConfigError("command", "hold no NUL", command)
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        raise ConfigError("command", "be text that UTF-8 can write", command) from None


def check_byte_limit(max_bytes: int, *, least: int) -> None:
    """Refuse a value that is not a number of bytes.

    Raises:
        ConfigError: no whole number, or less than ``least``.
    """
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < least:
        raise ConfigError("max_bytes", f"be a whole number of bytes, at least {least}", max_bytes)


def input_bytes(given: bytes | str | None) -> bytes | None:
    """Return the standard input of a command as bytes; text becomes UTF-8.

    Raises:
        ConfigError: neither, or text that UTF-8 cannot write.
    """
    if given is None:
        return None
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    return text_bytes("input", given)
