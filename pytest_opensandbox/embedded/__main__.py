"""The command that starts the embedded server: it writes one line of JSON and serves until its input closes."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from pytest_opensandbox.embedded.errors import StartError
from pytest_opensandbox.embedded.runtime.inherited_state import disable_core_dumps, set_start_state
from pytest_opensandbox.embedded.runtime.requirements import check_platform, storage_error
from pytest_opensandbox.embedded.runtime.user_namespaces import enter_own_namespace

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.server import EmbeddedServer

T = TypeVar("T")

_READ_BYTES = 4096
_BACKLOG = 512
_SANDBOX_LEFT_STATUS = 3
_LIMITS = "raise the limits of processes and of address space (ulimit -u, ulimit -v)"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        Exit status: 0 after standard input closed or a signal came, 1 if the server cannot run here, 3 if a sandbox
        did not end with it.
    """
    parser = argparse.ArgumentParser(prog="python -m pytest_opensandbox.embedded", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="loopback port to listen on; a free one by default")
    port: int = parser.parse_args(arguments).port
    for number in _SIGNALS:
        signal.signal(number, _end)
    try:
        check_platform()
        enter_own_namespace()
        set_start_state()
        disable_core_dumps()
        _run(port)
    except StartError as error:
        _write_line({"error": str(error), "cause": error.cause})
        return 1
    return 0


def _run(port: int) -> None:
    """Serve until standard input closes, then end every sandbox."""
    from pytest_opensandbox.embedded.server import EmbeddedServer  # lazily: it needs what check_platform has looked for

    server, key = _ready(EmbeddedServer), secrets.token_hex(16)
    try:
        _ready(server.prepare, place=server.directory)
        listener = _listen(port)
        # Before the HTTP library is loaded: requests that come meanwhile wait in the listener's queue.
        _write_line({"url": f"http://127.0.0.1:{listener.getsockname()[1]}", "api_key": key})
        _open(server, listener, key)
        _wait_for_end()
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if not server.close():
            raise SystemExit(_SANDBOX_LEFT_STATUS)


def _open(server: EmbeddedServer, listener: socket.socket, key: str) -> None:
    """Begin to answer requests. Report a failure on standard error, because the caller has read the JSON line already.

    Raises:
        SystemExit: the server cannot, usually because it may start no further threads.
    """
    try:
        server.open(listener, key)
    except (RuntimeError, MemoryError, OSError) as error:
        text = f"the server cannot begin to answer: {error or 'out of memory'}; {_LIMITS}"
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the server reports on standard error
        raise SystemExit(1) from None


def _ready(make: Callable[[], T], *, place: str = "") -> T:
    """Return what ``make`` returns, and turn an error of the system into one with a cause.

    Raises:
        StartError: the system refuses.
    """
    try:
        return make()
    except OSError as error:
        raise storage_error(error, place or tempfile.gettempdir()) from error


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    Raises:
        StartError: the port is taken.
    """
    try:
        return socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise StartError(f"cannot listen on port {port}: {error}", "another program has the port") from error


def _wait_for_end() -> None:
    """Return when standard input has closed."""
    while os.read(sys.stdin.fileno(), _READ_BYTES):
        pass


def _write_line(line: dict[str, str]) -> None:
    """Write one line of JSON to standard output."""
    print(json.dumps(line), flush=True)  # noqa: T201 - the caller reads the address here


def _end(number: int, frame: FrameType | None) -> None:
    """Raise ``SystemExit``, so that the ``finally`` blocks end the sandboxes."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
