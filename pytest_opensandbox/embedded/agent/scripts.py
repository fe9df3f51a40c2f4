"""One run of a session: a bash script whose output is read from a pipe until nobody holds its other end."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO

from . import events
from .answers import reason
from .processes import WatchedProcess
from .transcript import LineTooLongError, Transcript

_LOOK_MILLISECONDS = 100
"""How often to see whether the client has gone or the time is up, while there is no output."""


class RunFailedError(Exception):
    """A run without a result; the text is ExecD's."""


class Run:
    """One script.

    Args:
        script: bash.
        timeout: milliseconds; counts from the first event.

    Attributes:
        transcript: what the script has told so far.
    """

    def __init__(self, script: str, timeout: int) -> None:
        self.transcript = Transcript()
        self._script = script
        self._timeout = timeout
        self._child: WatchedProcess | None = None

    def output(self, is_gone: Callable[[], bool]) -> Iterator[bytes]:
        """Run the script and yield its output as events.

        A timeout, or a client that goes away, kills bash itself but none of its children: whoever still holds the
        pipe is waited for, as ExecD does.

        Raises:
            RunFailedError: bash could not be started, a line is too long, or the time was up.
        """
        deadline = time.monotonic() + self._timeout / 1000
        with tempfile.NamedTemporaryFile("w", prefix="execd_bash_", suffix=".sh", errors="surrogateescape") as file:
            file.write(self._script)
            file.flush()
            process = _start(file.name)
            self._child = WatchedProcess(process)
            assert process.stdout is not None
            try:
                with process.stdout as pipe:
                    yield from self._until_end(pipe, deadline, is_gone)
            finally:
                self._child.kill_leader()
        self._child.ended.wait()
        if time.monotonic() >= deadline:
            raise RunFailedError(f"timeout after {duration(self._timeout)}")

    def outcome(self) -> tuple[int, str]:
        """Return exit code and error text of a run that has ended."""
        assert self._child is not None
        code = self.transcript.exit_code
        if code is None:
            code = self._child.exit_code or 0
        return code, self._child.error or f"command exited with code {code}"

    def kill(self) -> None:
        """Kill the script and its children."""
        if self._child is not None:
            self._child.signal_group(signal.SIGKILL)

    def _until_end(self, pipe: IO[bytes], deadline: float, is_gone: Callable[[], bool]) -> Iterator[bytes]:
        assert self._child is not None
        pings = events.Pings()
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        is_open = True
        while not is_gone():
            if is_open and poller.poll(_LOOK_MILLISECONDS):
                data = os.read(pipe.fileno(), 65_536)
                is_open = bool(data)
                yield self._shown(data)
            elif not is_open and self._child.ended.wait(_LOOK_MILLISECONDS / 1000):
                return
            if time.monotonic() > deadline:
                self._child.kill_leader()
            yield pings.due()

    def _shown(self, data: bytes) -> bytes:
        try:
            return events.output("stdout", self.transcript.feed(data) if data else self.transcript.end())
        except LineTooLongError as exc:
            raise RunFailedError("read stdout: bufio.Scanner: token too long") from exc


def duration(milliseconds: int) -> str:
    """Return a duration as Go prints it: ``300ms``, ``1.5s``, ``1m0s``, ``24h0m0s``."""
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds


def _start(path: str) -> subprocess.Popen[bytes]:
    if not shutil.which("bash"):
        raise RunFailedError('start bash: exec: "bash": executable file not found in $PATH')
    try:
        return subprocess.Popen(  # noqa: S603 - running what the client asks for is what the agent is for
            ["bash", "--noprofile", "--norc", path],  # noqa: S607 - whichever bash the sandbox has
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as exc:
        raise RunFailedError(f"start bash: fork/exec bash: {reason(exc)}") from exc
