"""Commands that run in a sandbox while the test goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.command_run import HeadTailBuffer
from pytest_opensandbox.errors import OpenSandboxError, ServiceTimeoutError
from pytest_opensandbox.text import brief

P = TypeVar("P", bound="Process")
Send = Callable[[int, int], int]

_ENDING_SECONDS = 8.0
_TAIL_BYTES = 2_000


class ProcessStream:
    """What a process has written to one stream; of much that is not read, the middle is left out.

    Args:
        max_bytes: most that is kept for the next read; bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unread = HeadTailBuffer(max_bytes)
        self._all = HeadTailBuffer(max_bytes)
        self._lock = threading.Lock()

    def read(self) -> str:
        """Return what was written since the last read, as text; it does not wait."""
        return self.read_bytes().decode("utf-8", "replace")

    def read_bytes(self) -> bytes:
        """Return what was written since the last read; it does not wait."""
        with self._lock:
            unread, self._unread = self._unread, HeadTailBuffer(self._max_bytes)
            return unread.content()

    @property
    def text(self) -> str:
        """All that was written so far, read or not."""
        with self._lock:
            return self._all.text()

    def add(self, piece: bytes) -> None:
        """Add to the end."""
        with self._lock:
            self._unread.write(piece)
            self._all.write(piece)


class Process:
    """A command that was started in a sandbox; use it as a context manager, or ``close`` it.

    It ends with the sandbox, if not before. The names are those of ``subprocess.Popen``.

    Args:
        command: what runs.
        max_bytes: most that is kept of each stream; bytes.
        send: sends a signal to a process group of the sandbox; returns the number of an error, 0 for success.
    """

    def __init__(self, command: str | Sequence[str], *, max_bytes: int, send: Send) -> None:
        self.args = command
        """Text for the shell, or the argument list."""
        self.pid = 0
        """Its number in the sandbox."""
        self.stdout = ProcessStream(max_bytes)
        """Standard output; ``read()`` returns what is new."""
        self.stderr = ProcessStream(max_bytes)
        """Standard error; ``read()`` returns what is new."""
        self._send = send
        self._runner_pid = 0
        self._exit_code: int | None = None
        self._error: OpenSandboxError | None = None
        # Guards all of this, and is notified of each change.
        self._changed = threading.Condition()
        self.is_over = False
        """Whether nothing more will be heard of it."""

    @property
    def returncode(self) -> int | None:
        """0 … 255, minus the signal's number, or None while it runs."""
        return self._exit_code

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs.

        Raises:
            OpenSandboxError: its end will never be known: the connection broke, or the sandbox is gone.
        """
        if self._exit_code is None and self._error is not None:
            raise self._error
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return its exit code.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            ServiceTimeoutError: it runs on.
            OpenSandboxError: as ``poll``.
        """
        if not self.wait_until(lambda: self.poll() is not None, timeout):
            raise self.error("its end", f"it still runs after {timeout or 0:g} s")
        return self.poll() or 0

    def wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until a condition holds, which is asked at each piece of output and at the end.

        Args:
            condition: asked in this thread.
            timeout: seconds; None for no limit.

        Returns:
            Whether it holds.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def error(self, awaited: str, why: str) -> ServiceTimeoutError:
        """Return the error for something that was waited for, with the ends of both streams."""
        return ServiceTimeoutError(
            f"{awaited} of {brief(self.args)}", why=why, stdout=self.stdout.text, stderr=self.stderr.text
        )

    def send_signal(self, number: int) -> None:
        """Send a signal to it and to the processes of its group, as a terminal does; nothing after its end.

        Args:
            number: such as ``signal.SIGHUP``.

        Raises:
            TransportError: the agent does not answer.
        """
        if self.pid and self.poll() is None:
            self._send(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, as ``send_signal``."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, as ``send_signal``."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it and all its descendants: SIGTERM, after 2 s SIGKILL. A second call does nothing."""
        if self._runner_pid and not self.is_over:
            with suppress(OpenSandboxError):
                self._send(self._runner_pid, signal.SIGTERM)
                self.wait_until(lambda: self.is_over, _ENDING_SECONDS)

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self._exit_code is None else f"exit code {self._exit_code}"
        return f"<Process {brief(self.args)} pid={self.pid} {state}>"

    @property
    def tails(self) -> tuple[str, str]:
        """The ends of both streams, for a report."""
        return self.stdout.text[-_TAIL_BYTES:], self.stderr.text[-_TAIL_BYTES:]

    def on_start(self, pid: int, runner_pid: int) -> None:
        """Take note of its number, and of that of its runner."""
        with self._changed:
            self.pid, self._runner_pid = pid, runner_pid
            self._changed.notify_all()

    def on_bridge(self, nonce: str, port: int, inner_port: int) -> None:
        """Take note of nothing: a command is no bridge."""

    def on_output(self, stream: str, piece: bytes) -> None:
        """Take what was just written."""
        with self._changed:
            (self.stdout if stream == "stdout" else self.stderr).add(piece)
            self._changed.notify_all()

    def on_exit(self, exit_code: int) -> None:
        """Take note that it has ended."""
        with self._changed:
            self._exit_code = exit_code
            self._changed.notify_all()

    def follow(self, run: Callable[[], CommandResult]) -> None:
        """Run it in a thread, and return when it has begun.

        Args:
            run: runs it to its end, with this object as its observer.

        Raises:
            OpenSandboxError: it could not be started.
        """
        threading.Thread(target=self._follow, args=(run,), name="opensandbox-process", daemon=True).start()
        self.wait_until(lambda: self.pid > 0 or self.is_over, None)
        if self.pid == 0 and self._error is not None:
            raise self._error

    def _follow(self, run: Callable[[], CommandResult]) -> None:
        error: OpenSandboxError | None = None
        try:
            result = run()
            self._finish(result)
        except OpenSandboxError as exc:
            error = exc
        with self._changed:
            self._error, self.is_over = error, True
            self._changed.notify_all()

    def _finish(self, result: CommandResult) -> None:
        with self._changed:
            if not self.pid:
                self.stderr.add(result.stderr_bytes)
            if self._exit_code is None:
                self._exit_code = result.exit_code
