"""Starts the embedded server as a process of its own, and stops it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import IO

from pytest_opensandbox.errors import ServerStartError

START_SECONDS = 30.0
STOP_SECONDS = 10.0

_TAIL_BYTES = 2_000
_LINE_BYTES = 65_536
_CHOICES = (
    "--opensandbox-url can be: http(s)://HOST:PORT, an OpenSandbox server that runs elsewhere;"
    " docker, opensandbox-server on the Docker engine of this machine;"
    " embedded, Linux namespaces on this machine, which needs a kernel that lets this user make them."
)


class ManagedServer:
    """A server process that ends with this object, with this process, or on request.

    The process lives as long as one pipe stays open, and only the process that started it holds the pipe: not the
    commands that it runs, and not its forks.

    Attributes:
        url: base URL of the lifecycle API, without ``/v1``.
        api_key: what it asks for; not shown by ``repr``.
        pid: the process.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], url: str, api_key: str) -> None:
        self.url = url
        self.api_key = api_key
        self.pid = process.pid
        self._process = process
        self._errors = errors
        self._owner = os.getpid()
        _running.add(self)

    def __repr__(self) -> str:
        return f"ManagedServer(url={self.url!r}, api_key='***', pid={self.pid})"

    def __enter__(self) -> ManagedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def stderr_tail(self) -> str:
        """Return the end of what the server wrote to standard error, at most 2,000 bytes."""
        return _tail(self._errors)

    def stop(self) -> None:
        """End the server and its sandboxes; nothing happens the second time, nor in a fork of the owner."""
        if os.getpid() == self._owner and not self._errors.closed:
            _running.discard(self)
            _end(self._process)
            self._errors.close()

    def _let_go(self) -> None:
        """Drop the pipe in a fork: its copy would keep the server alive when the owner is gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0  # not this process's child: nothing to wait for, nothing to warn about


def start_embedded() -> ManagedServer:
    """Start the embedded server and return it once it listens.

    Raises:
        ServerStartError: it cannot run on this machine; the text says why and what to use instead.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - a file: a pipe that nobody reads would fill up and stop the server
    try:
        process = _spawn(errors)
    except OSError as error:
        errors.close()
        raise ServerStartError(_refusal(f"{sys.executable} could not be started: {error}")) from error
    try:
        said = _first_line(process)
    except BaseException as error:
        _end(process)
        tail = _tail(errors)
        errors.close()
        if isinstance(error, _NoAnswerError):
            raise ServerStartError(_refusal(str(error), tail)) from None
        raise
    return ManagedServer(process, errors, said["url"], said["api_key"])


class _NoAnswerError(Exception):
    """The process did not say where it listens; the text is why."""


_running: weakref.WeakSet[ManagedServer] = weakref.WeakSet()


def _let_all_go() -> None:
    """Release every server, in a process that was forked from this one."""
    for server in list(_running):
        server._let_go()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_all_go)


def _spawn(errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the process, out of reach of the terminal's Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest_opensandbox.embedded"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        # -m looks into the working directory first, and a tested project may have a bottle.py of its own.
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


def _first_line(process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Return what the server says about itself, url and api_key.

    Raises:
        _NoAnswerError: it says that it cannot run, ends, or says nothing in time.
    """
    line = _read_line(process)
    try:
        said = json.loads(line)
        if "error" in said:
            raise _NoAnswerError(f"{said['error']} ({said.get('cause', 'cause unknown')})")
        return {"url": said["url"], "api_key": said["api_key"]}
    except (ValueError, TypeError, KeyError):
        raise _NoAnswerError(f"it said {line[:200]!r} instead of where it listens") from None


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _NoAnswerError(f"it did not say where it listens within {START_SECONDS:g} s")
            data = os.read(process.stdout.fileno(), _LINE_BYTES)
            if not data:
                raise _NoAnswerError(f"it ended with status {process.wait()} before it listened")
            line += data
    return line


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that keeps the process alive, and kill it if that does not help."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):  # Ctrl-C while waiting: end the server first, then obey
            raise
    finally:
        process.stdout.close()


def _tail(errors: IO[bytes]) -> str:
    """Return the end of a file that another process writes to."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    return errors.read().decode(errors="replace").strip()


def _refusal(why: str, tail: str = "") -> str:
    """Return the text of the error: why, what to use instead, and the server's last words."""
    words = f"\n--- the server's standard error ends with ---\n{tail}" if tail else ""
    return f"--opensandbox-url=embedded cannot work here: {why}\n{_CHOICES}{words}"
