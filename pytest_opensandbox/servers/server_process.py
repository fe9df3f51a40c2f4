"""A server in a process of its own: the embedded server, or opensandbox-server on the Docker engine."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ServerStartError
from pytest_opensandbox.text import os_reason

START_SECONDS = 30.0
STOP_SECONDS = 15.0
DOCKER_START_SECONDS = 120.0
DOCKER_STOP_SECONDS = 60.0

_START_MODULE = "pytest_opensandbox.servers.process_start"
# The user sets these for the Python that runs the tests; they would end a server, or fill its standard error.
_PYTHON_SWITCHES = "DEBUG DEVMODE DUMPREFS INSPECT MALLOCSTATS OPTIMIZE PROFILEIMPORTTIME TRACEMALLOC VERBOSE WARNINGS"
_REMOVED_VARIABLES = frozenset(f"PYTHON{name}" for name in (*_PYTHON_SWITCHES.split(), "WARNDEFAULTENCODING"))
_TAIL_BYTES = 2_000
_LINE_BYTES = 65_536
_CHOICES = (
    "--opensandbox-url can be: http(s)://HOST:PORT, an OpenSandbox server that runs elsewhere;"
    " docker, opensandbox-server on the Docker engine of this machine;"
    " embedded, Linux namespaces on this machine, which needs a kernel that lets this user make them."
)


class ServerProcess:
    """A server process that ends on request, with this object, or with this process.

    The server ends when its standard input closes. Only the process that started it holds that pipe: neither the
    commands of that process nor its forks do.

    Attributes:
        url: base URL of the lifecycle API, without ``/v1``.
        api_key: the key that the server requires; ``repr`` does not show it.
        file: path of a file that only this user can read, with url and key for other processes of the run; or "".
        pid: id of the process.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        errors: IO[bytes],
        announcement: Mapping[str, str],
        *,
        stop_seconds: float,
    ) -> None:
        self.url = announcement["url"]
        self.api_key = announcement["api_key"]
        self.file = announcement.get("file", "")
        self.pid = process.pid
        self._process = process
        self._errors = errors
        self._log = announcement.get("log", "")
        self._stop_seconds = stop_seconds
        self._owner = os.getpid()
        _running_servers.add(self)

    def __repr__(self) -> str:
        return f"ServerProcess(url={self.url!r}, api_key='***', pid={self.pid})"

    def __enter__(self) -> ServerProcess:
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
        """Wait up to ``within`` seconds for the end of the process, and return whether it has ended."""
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
        """End the server and its sandboxes; safe to call again, and without effect in a fork of the owner."""
        if os.getpid() == self._owner and not self._errors.closed:
            _running_servers.discard(self)
            end(self._process, seconds=self._stop_seconds)
            self._errors.close()

    def release_in_fork(self) -> None:
        """Close a fork's copy of the pipe, which would keep the server alive after the owner has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.returncode = 0  # the child of another process: Popen must neither wait for it nor warn about it


def start_embedded(*, choice: str = "--opensandbox-url=embedded") -> ServerProcess:
    """Start the embedded server and return it once it listens.

    Args:
        choice: how the user chose this server, for the error text.

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
) -> ServerProcess:
    """Start opensandbox-server on this machine's Docker engine and return it once it is healthy.

    Args:
        label: ``key=value`` of the sandboxes of this run; those that are left are deleted when the server stops.
        execd_image: image of the agent; None for the one in the server's own example.
        egress_image: image of the egress sidecar; None as above.
        choice: how the user chose this server, for the error text.

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
    """Start ``python -m module`` in a session of its own, so that Ctrl-C in the terminal does not reach it.

    The module has to end when its standard input closes. It starts with default signals and umask, and without the
    variables that change Python itself.

    Args:
        module: dotted name of the module.
        arguments: its command line; no secrets, every user of the machine can read it.
        stdout: its standard output; a pipe by default.
        stderr: its standard error.
        environment: variables besides those of this process.

    Raises:
        OSError: the interpreter cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours, and options that config has read
        [sys.executable, "-m", _START_MODULE, module, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        env={name: value for name, value in os.environ.items() if name not in _REMOVED_VARIABLES}
        | dict(environment or {}),
        # -m looks into the working directory first, and a tested project may have a waitress.py of its own.
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Close the pipe that keeps a process alive, and kill the process if it has not ended in time."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(seconds)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):  # Ctrl-C while waiting: the server ends first
            raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


class _NotStartedError(Exception):
    """A process ended, or was too late, before it listened; the text says why."""


_running_servers: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


def _release_all_in_fork() -> None:
    """Release every server in a fork of this process."""
    for server in list(_running_servers):
        server.release_in_fork()
    _running_servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all_in_fork)


def _start(
    choice: str, module: str, arguments: Sequence[str] = (), *, start_seconds: float, stop_seconds: float
) -> ServerProcess:
    """Start a server and return it once it listens."""
    try:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - a file: an unread pipe would fill up and stop the server
    except OSError as error:
        why = (
            f"there is no place for temporary files ({os_reason(error)}):"
            " free some space, or set TMPDIR to another directory"
        )
        raise ServerStartError(_error_text(choice, why)) from error
    try:
        process = spawn(module, arguments, stderr=errors)
    except OSError as error:
        errors.close()
        raise ServerStartError(_error_text(choice, f"{sys.executable} could not be started: {error}")) from error
    try:
        announcement = _read_announcement(process, start_seconds)
    except BaseException as error:
        end(process, seconds=stop_seconds)
        tail = _tail(errors)
        errors.close()
        if isinstance(error, _NotStartedError):
            raise ServerStartError(_error_text(choice, str(error), tail)) from None
        raise
    return ServerProcess(process, errors, announcement, stop_seconds=stop_seconds)


def _read_announcement(process: subprocess.Popen[bytes], seconds: float) -> dict[str, str]:
    """Return the server's first line: url, api_key, and perhaps file and log, two paths.

    Raises:
        _NotStartedError: it reports an error, ends, or does not listen in time.
    """
    line = _read_line(process, seconds)
    try:
        announcement = json.loads(line)
        if "error" in announcement:
            raise _NotStartedError(f"{announcement['error']} ({announcement.get('cause', 'cause unknown')})")
        return {"url": announcement["url"], "api_key": announcement["api_key"], **announcement}
    except (ValueError, TypeError, KeyError):
        raise _NotStartedError(f"its first line is {line[:200]!r} and does not say where it listens") from None


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdout is not None
    deadline = monotonic() + seconds
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - monotonic())):
                raise _NotStartedError(f"it did not listen within {seconds:g} s")
            data = os.read(process.stdout.fileno(), _LINE_BYTES)
            if not data:
                raise _NotStartedError(f"it ended with status {process.wait()} before it listened")
            line += data
    return line


def _tail(errors: IO[bytes]) -> str:
    """Return the end of a file that another process writes to."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    tail = errors.read()
    whole_lines = tail.partition(b"\n")[2] if size > _TAIL_BYTES else tail
    return (whole_lines or tail).decode(errors="replace").strip()


def _error_text(choice: str, why: str, tail: str = "") -> str:
    """Return the text of the error: the reason, the other backends, and the end of the server's standard error."""
    log = f"\n--- the server's standard error ends with ---\n{tail}" if tail else ""
    return f"{choice} cannot work here: {why}\n{_CHOICES}{log}"
