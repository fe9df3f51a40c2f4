"""Starts a server as a process of its own, the embedded one or one on the Docker engine, and stops it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from pytest_opensandbox.errors import ServerStartError
from pytest_opensandbox.text import os_reason

START_SECONDS = 30.0
STOP_SECONDS = 15.0
DOCKER_START_SECONDS = 120.0
DOCKER_STOP_SECONDS = 60.0

_START = "pytest_opensandbox.servers.process_start"
# What the user asks of the Python that runs the tests; in a server it would end it, or fill its standard error.
_SWITCHES = "DEBUG DEVMODE DUMPREFS INSPECT MALLOCSTATS OPTIMIZE PROFILEIMPORTTIME TRACEMALLOC VERBOSE WARNINGS"
_NOT_PASSED_ON = frozenset(f"PYTHON{name}" for name in (*_SWITCHES.split(), "WARNDEFAULTENCODING"))
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
        file: path of a file that only this user can read and that holds both, for other processes of the run; or "".
        pid: the process.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], errors: IO[bytes], said: Mapping[str, str], *, stop_seconds: float
    ) -> None:
        self.url = said["url"]
        self.api_key = said["api_key"]
        self.file = said.get("file", "")
        self.pid = process.pid
        self._process = process
        self._errors = errors
        self._log = said.get("log", "")
        self._stop_seconds = stop_seconds
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

    @property
    def status(self) -> int | None:
        """Exit status of the process, -n after signal n; None while it runs."""
        return self._process.poll()

    def ends(self, *, within: float) -> bool:
        """Wait for the end of the process, and say whether it came in time; seconds."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stderr_tail(self) -> str:
        """Return the end of what the server wrote to standard error, at most 2,000 bytes."""
        if self._log:
            with suppress(OSError), open(self._log, "rb") as log:
                return _tail(log)
        return _tail(self._errors)

    def stop(self) -> None:
        """End the server and its sandboxes; nothing happens the second time, nor in a fork of the owner."""
        if os.getpid() == self._owner and not self._errors.closed:
            _running.discard(self)
            end(self._process, seconds=self._stop_seconds)
            self._errors.close()

    def _let_go(self) -> None:
        """Drop the pipe in a fork: its copy would keep the server alive when the owner is gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0  # not this process's child: nothing to wait for, nothing to warn about


def start_embedded(*, choice: str = "--opensandbox-url=embedded") -> ManagedServer:
    """Start the embedded server and return it once it listens.

    Args:
        choice: how somebody asked for it, for the message.

    Raises:
        ServerStartError: it cannot run on this machine; the text says why and what to use instead.
    """
    return _start(choice, "pytest_opensandbox.embedded", start_seconds=START_SECONDS, stop_seconds=STOP_SECONDS)


def start_docker(
    *,
    label: str,
    execd_image: str | None = None,
    egress_image: str | None = None,
    choice: str = "--opensandbox-url=docker",
) -> ManagedServer:
    """Start opensandbox-server on this machine's Docker engine and return it once it is healthy.

    Args:
        label: ``key=value`` that the sandboxes of this run carry; those that are left go when the server stops.
        execd_image: image of the agent; None for what the server's own example names.
        egress_image: image of the network guard; None as above.
        choice: how somebody asked for it, for the message.

    Raises:
        ServerStartError: it cannot run on this machine; the text says why and what to use instead.
    """
    images = {"--execd-image": execd_image, "--egress-image": egress_image}
    return _start(
        choice,
        "pytest_opensandbox.servers.docker_supervisor",
        ["--label", label, *(f"{flag}={image}" for flag, image in images.items() if image)],
        start_seconds=DOCKER_START_SECONDS,
        stop_seconds=DOCKER_STOP_SECONDS,
    )


def spawn(
    module: str,
    arguments: Sequence[str] = (),
    *,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``python -m module``, out of reach of the terminal's Ctrl-C; it is to end when its standard input closes.

    It begins in a defined state, whatever this process ignores, blocks or has as its umask, and without the switches
    of Python that the environment may hold.

    Args:
        module: what to run.
        arguments: its command line; no secrets, everybody can read it.
        stdout: where its standard output goes; a pipe by default.
        stderr: where its standard error goes.
        environment: variables besides those of this process.

    Raises:
        OSError: the interpreter cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours, and options that config has read
        [sys.executable, "-m", _START, module, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        env={name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON} | dict(environment or {}),
        # -m looks into the working directory first, and a tested project may have a waitress.py of its own.
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Close the pipe that keeps a process alive, and kill it if that does not help within the time."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(seconds)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):  # Ctrl-C while waiting: end the server first, then obey
            raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


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


def _start(
    choice: str, module: str, arguments: Sequence[str] = (), *, start_seconds: float, stop_seconds: float
) -> ManagedServer:
    """Start a server and return it once it has said where it listens."""
    try:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - a file: a pipe that nobody reads would fill up and stop the server
    except OSError as error:
        why = (
            f"there is no place for temporary files ({os_reason(error)}), make room or set TMPDIR to another directory"
        )
        raise ServerStartError(_refusal(choice, why)) from error
    try:
        process = spawn(module, arguments, stderr=errors)
    except OSError as error:
        errors.close()
        raise ServerStartError(_refusal(choice, f"{sys.executable} could not be started: {error}")) from error
    try:
        said = _first_line(process, start_seconds)
    except BaseException as error:
        end(process, seconds=stop_seconds)
        tail = _tail(errors)
        errors.close()
        if isinstance(error, _NoAnswerError):
            raise ServerStartError(_refusal(choice, str(error), tail)) from None
        raise
    return ManagedServer(process, errors, said, stop_seconds=stop_seconds)


def _first_line(process: subprocess.Popen[bytes], seconds: float) -> dict[str, str]:
    """Return what the server says about itself: url, api_key, and perhaps file and log, two paths.

    Raises:
        _NoAnswerError: it says that it cannot run, ends, or says nothing in time.
    """
    line = _read_line(process, seconds)
    try:
        said = json.loads(line)
        if "error" in said:
            raise _NoAnswerError(f"{said['error']} ({said.get('cause', 'cause unknown')})")
        return {"url": said["url"], "api_key": said["api_key"], **said}
    except (ValueError, TypeError, KeyError):
        raise _NoAnswerError(f"it said {line[:200]!r} instead of where it listens") from None


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _NoAnswerError(f"it did not say where it listens within {seconds:g} s")
            data = os.read(process.stdout.fileno(), _LINE_BYTES)
            if not data:
                raise _NoAnswerError(f"it ended with status {process.wait()} before it listened")
            line += data
    return line


def _tail(errors: IO[bytes]) -> str:
    """Return the end of a file that another process writes to."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    tail = errors.read()
    whole_lines = tail.partition(b"\n")[2] if size > _TAIL_BYTES else tail
    return (whole_lines or tail).decode(errors="replace").strip()


def _refusal(choice: str, why: str, tail: str = "") -> str:
    """Return the text of the error: why, what to use instead, and the server's last words."""
    words = f"\n--- the server's standard error ends with ---\n{tail}" if tail else ""
    return f"{choice} cannot work here: {why}\n{_CHOICES}{words}"
