"""The protocol between this package and the runner: the request of one command, and the report on it.

docs/exact-output.md describes both. What a report says comes from a sandbox, so it is hostile until checked.
"""

from __future__ import annotations

import base64
import binascii
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pytest_opensandbox.client.command_run import (
    Callback,
    check_byte_limit,
    check_command,
    check_directory,
    check_time_limit,
    check_user,
)
from pytest_opensandbox.client.sandbox_opts import check_env
from pytest_opensandbox.sandbox.stream_reader import StreamReader

Value = str | bytes | int
Field = tuple[str, Value]

VARIABLE = "OPENSANDBOX_RUNNER_REQUEST"
"""Carries the request, in base64, or ``@`` and the path of a file that holds it; the runner removes both."""
VERSION = 1
WORKSPACE = "/workspace"
"""Where commands run whose image names no working directory of its own; the first command makes it."""


class Observer(Protocol):
    """Observes a command while it runs, in the thread that reads its report."""

    def on_start(self, pid: int, runner_pid: int) -> None:
        """Take note of its number, and of that of its runner, in the sandbox."""

    def on_output(self, stream: str, piece: bytes) -> None:
        """Take what was just written to ``stdout`` or ``stderr``."""

    def on_bridge(self, nonce: str, port: int, inner_port: int) -> None:
        """Take note of where a bridge listens, and of its secret."""

    def on_exit(self, exit_code: int) -> None:
        """Take note that it has ended; processes in the background may still write."""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One command and how it runs.

    Raises:
        ConfigError: a value breaks a rule; names the field and the rule.
    """

    command: str | Sequence[str]
    """Text for the sandbox's shell, or an argument list that meets no shell."""
    bridges: bool = False
    """Whether to run a bridge instead of the command, which only names it then."""
    inner_port: int | None = None
    """Of a bridge: a port to listen on in the sandbox, 0 for any."""
    cwd: str | None = None
    """Working directory."""
    env: Mapping[str, str] | None = None
    """Variables on top of the sandbox's own."""
    uid: int | None = None
    """User to run as."""
    gid: int | None = None
    """Group to run as; default the number of the user."""
    timeout: float | None = None
    """Seconds until it is killed with all that it started; None for no limit."""
    stdin: bytes | None = None
    """Standard input; None for an empty one."""
    on_stdout: Callback | None = None
    """Called with each line of standard output while the command runs, without the line's end."""
    on_stderr: Callback | None = None
    """Called with each line of standard error."""
    observer: Observer | None = None
    """Observes the command while it runs."""
    max_bytes: int
    """Most that is kept of each stream; the middle of a longer one is left out; bytes, > 1."""

    def __post_init__(self) -> None:
        check_command(self.command)
        check_directory(self.cwd)
        check_time_limit(self.timeout)
        if self.env:
            check_env(self.env)
        check_byte_limit(self.max_bytes, least=2)
        check_user(self.uid, self.gid)

    @property
    def is_live(self) -> bool:
        """Whether output is passed on while the command runs."""
        return any(callback is not None for callback in (self.on_stdout, self.on_stderr, self.observer))

    def request(self, nonce: str, sandbox_id: str, *, output_path: str = "", makes_workspace: bool) -> bytes:
        """Return the request that the runner reads.

        Args:
            nonce: begins each line of the report.
            sandbox_id: the sandbox that is meant; in another the runner runs nothing.
            output_path: what the paths of the two files begin with that take long output; "" for none.
            makes_workspace: whether to make the directory that every sandbox has, where the image lacks it.
        """
        if self.bridges:
            inner: list[Field] = [] if self.inner_port is None else [("x", self.inner_port)]
            return encode_request("bridge", nonce, sandbox_id, inner)
        command = self.command
        fields: list[Field] = [("s", command)] if isinstance(command, str) else [("a", word) for word in command]
        fields += [("e", f"{name}={value}") for name, value in (self.env or {}).items()]
        fields += [("d", WORKSPACE), ("m", self.max_bytes)]
        optional: dict[str, Value | None] = {
            "c": self.cwd,
            "u": self.uid,
            "g": self.gid,
            "i": self.stdin,
            "t": None if self.timeout is None else milliseconds(self.timeout),
            "p": "" if makes_workspace else None,
            "l": "" if self.is_live else None,
            "f": None if self.is_live else output_path or None,
        }
        fields += [(tag, value) for tag, value in optional.items() if value is not None]
        return encode_request("run", nonce, sandbox_id, fields)


def encode_request(kind: str, nonce: str, sandbox_id: str, fields: Iterable[Field] = ()) -> bytes:
    """Return a request of any kind.

    Args:
        kind: what the runner is to do.
        nonce: begins each line of the report.
        sandbox_id: the sandbox that is meant.
        fields: tags and values.
    """
    head: list[Field] = [("v", VERSION), ("k", kind), ("n", nonce), ("b", sandbox_id)]
    return b"".join(_field(tag, value) for tag, value in [*head, *fields])


def milliseconds(seconds: float) -> int:
    """Return a time limit as the runner has it: at least 1."""
    return max(round(seconds * 1000), 1)


def _field(tag: str, value: Value) -> bytes:
    content = value if isinstance(value, bytes) else str(value).encode()
    return b"%s%d:%s" % (tag.encode(), len(content), content)


class Ending(NamedTuple):
    """How a command ended."""

    status: int
    """As wait(2) gives it."""
    timed_out: bool
    """Whether its time limit ended it."""
    stdout_bytes: int
    """What it wrote to standard output; bytes."""
    stderr_bytes: int
    """What it wrote to standard error; bytes."""

    @property
    def exit_code(self) -> int:
        """0 … 255, or minus the signal's number."""
        return os.waitstatus_to_exitcode(self.status)

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it, None where none did."""
        if self.exit_code >= 0:
            return None
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"


class Failure(NamedTuple):
    """Why nothing was run."""

    stage: str
    """``exec``, ``cwd``, ``user``, ``fork`` or ``memory``."""
    errno: int
    """As in errno(3)."""


class Report:
    """The report on one command, read line by line; a line that is no part of it is skipped.

    Args:
        nonce: begins each line.
        invocation: the command.
    """

    def __init__(self, nonce: str, invocation: Invocation) -> None:
        self.ending: Ending | None = None
        """How the command ended; None while it runs."""
        self.failure: Failure | None = None
        """Why nothing was run."""
        self.other_sandbox = ""
        """The sandbox whose agent answered, where that is another; nothing was run there."""
        self.stdout = StreamReader(invocation.max_bytes, invocation.on_stdout)
        """Standard output."""
        self.stderr = StreamReader(invocation.max_bytes, invocation.on_stderr)
        """Standard error."""
        self._streams = {"out": self.stdout, "err": self.stderr}
        self._nonce = nonce
        self._invocation = invocation

    @property
    def is_empty(self) -> bool:
        """Whether the runner has said nothing."""
        return self.ending is None and self.failure is None and not self.other_sandbox and not self.has_output

    @property
    def has_output(self) -> bool:
        """Whether a part of a stream has arrived."""
        return self.stdout.received + self.stderr.received > 0

    @property
    def truncated(self) -> bool:
        """Whether the middle of a stream was left out."""
        most = self._invocation.max_bytes
        return self.ending is not None and max(self.ending.stdout_bytes, self.ending.stderr_bytes) > most

    @property
    def is_whole(self) -> bool:
        """Whether the command has ended, and as much of its output has arrived as the runner has sent."""
        if self.ending is None:
            return False
        most = self.ending.stdout_bytes + self.ending.stderr_bytes
        limit = most if self._invocation.is_live else self._invocation.max_bytes
        sizes = (min(self.ending.stdout_bytes, limit), min(self.ending.stderr_bytes, limit))
        return (self.stdout.received, self.stderr.received) == sizes

    @property
    def files(self) -> list[tuple[str, StreamReader]]:
        """What the runner has written to files and was not read yet: the end of the path, and the stream."""
        return [(word, stream) for word, stream in self._streams.items() if stream.file_bytes]

    def add_line(self, line: str) -> None:
        """Add one line, without its end."""
        nonce, _, rest = line.partition(" ")
        if nonce != self._nonce or self.ending is not None:
            return
        word, *arguments = rest.split(" ")
        if word in self._streams:
            self._add_output(word, arguments)
        elif word == "file" and len(arguments) == 2 and not self._invocation.is_live:
            most = self._invocation.max_bytes
            if (sizes := _numbers(arguments[1:], below=most + 1)) and arguments[0] in self._streams:
                self._streams[arguments[0]].expect_file(sizes[0])
        elif word == "refuse":
            self.other_sandbox = " ".join(arguments)[:200]
        elif word == "fail" and len(arguments) == 2 and (numbers := _numbers(arguments[1:], below=4096)):
            self.failure = Failure(arguments[0], numbers[0])
        elif (numbers := _numbers(arguments)) is not None:
            self._add_numbers(word, numbers)

    def _add_output(self, word: str, arguments: Sequence[str]) -> None:
        size, content = (*arguments, "", "")[:2]
        try:
            piece = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            return
        # A line that was cut off, because a disk was full, comes again as a whole.
        if str(len(piece)) != size:
            return
        self._streams[word].add(piece)
        if self._invocation.observer is not None:
            self._invocation.observer.on_output(f"std{word}", piece)

    def _add_numbers(self, word: str, numbers: Sequence[int]) -> None:
        observer = self._invocation.observer
        if word == "start" and len(numbers) == 2 and observer is not None:
            observer.on_start(*numbers)
        elif word == "bridge" and len(numbers) == 3 and observer is not None:
            observer.on_bridge(self._nonce, *numbers[:2])
            observer.on_start(numbers[2], numbers[2])
        elif word == "exit" and len(numbers) == 1 and _is_wait_status(numbers[0]) and observer is not None:
            observer.on_exit(os.waitstatus_to_exitcode(numbers[0]))
        elif word == "end" and len(numbers) == 5 and _is_wait_status(numbers[0]):
            self.ending = Ending(numbers[0], numbers[1] != 0, numbers[2], numbers[3])
            self.stdout.finish()
            self.stderr.finish()


def _numbers(words: Sequence[str], *, below: int = 2**63) -> list[int] | None:
    """Return words as numbers; None where one of them is no number below the limit."""
    if not words or not all(word.isascii() and word.isdecimal() and len(word) < 20 for word in words):
        return None
    numbers = [int(word) for word in words]
    return numbers if max(numbers) < below else None


def _is_wait_status(status: int) -> bool:
    """Return whether wait(2) can give this status for a process that has ended."""
    return os.WIFEXITED(status) or os.WIFSIGNALED(status) if status < 1 << 16 else False
