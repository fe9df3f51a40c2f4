"""A terminal in a sandbox, attached to the terminal of this process."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from pytest_opensandbox.errors import CommandStartError, ConfigError, OpenSandboxError, SandboxError
from pytest_opensandbox.sandbox.bridge import Bridge
from pytest_opensandbox.sandbox.runner_protocol import WORKSPACE, Field, encode_request
from pytest_opensandbox.transport.websocket import WebSocket

TERMINAL = "/dev/tty"
"""The terminal of this process, whatever its standard streams are."""

_CHUNK_BYTES = 65_536
_POLL_SECONDS = 0.2


def run_in_terminal(
    bridge: Bridge,
    command: str | Sequence[str] | None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> int:
    """Run a command in a terminal of the sandbox, with this process's terminal, until it ends.

    Args:
        bridge: into the sandbox.
        command: as for ``Sandbox.run``; None for a shell.
        env: variables on top of the sandbox's own.
        cwd: working directory.

    Returns:
        Its exit code; minus the number of a signal.

    Raises:
        ConfigError: this process has no terminal.
        CommandStartError: it could not be started.
        SandboxError: the connection ended before it did.
    """
    with _own_terminal() as terminal:
        web_socket = bridge.open("terminal")
        try:
            fields = list(_fields(command, env or {}, cwd, os.get_terminal_size(terminal)))
            web_socket.send(encode_request("terminal", "0" * 16, "", fields))
            with _raw(terminal):
                return _attach(web_socket, terminal, command or "a shell")
        finally:
            web_socket.close()


def _fields(
    command: str | Sequence[str] | None, env: Mapping[str, str], cwd: str | None, size: os.terminal_size
) -> Iterator[Field]:
    if isinstance(command, str):
        yield "s", command
    else:
        yield from (("a", word) for word in command or ())
    for name, value in env.items():
        yield "e", f"{name}={value}"
    yield from (("d", WORKSPACE), ("r", size.lines), ("w", size.columns))
    if cwd is not None:
        yield "c", cwd


@contextmanager
def _own_terminal() -> Iterator[int]:
    try:
        terminal = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        raise ConfigError("shell", "be run where there is a terminal: not in CI, nor behind nohup", TERMINAL) from None
    try:
        yield terminal
    finally:
        os.close(terminal)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Have the terminal pass on each key, and restore it in any case."""
    import termios
    import tty

    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _attach(web_socket: WebSocket, terminal: int, command: str | Sequence[str]) -> int:
    """Carry both directions until the command has ended; return its exit code."""
    ending: list[str] = []
    is_over = threading.Event()

    def show() -> None:
        while (message := web_socket.receive()) is not None:
            if isinstance(message, str):
                ending.append(message)
                break
            with suppress(OSError):
                _write_all(terminal, message)
        is_over.set()

    def resize(*_: object) -> None:
        size = os.get_terminal_size(terminal)
        with suppress(OpenSandboxError):
            web_socket.send(f"size {size.lines} {size.columns}")

    shown = threading.Thread(target=show, name="opensandbox-terminal", daemon=True)
    shown.start()
    before = signal.signal(signal.SIGWINCH, resize)
    try:
        while not is_over.is_set():
            readable, _, _ = select.select([terminal], [], [], _POLL_SECONDS)
            if readable:
                web_socket.send(os.read(terminal, _CHUNK_BYTES))
    except OpenSandboxError:
        # What the command wrote last, and how it ended, may still come.
        is_over.wait()
    finally:
        signal.signal(signal.SIGWINCH, before)
    return _exit_code("".join(ending).split(" "), command)


def _exit_code(words: Sequence[str], command: str | Sequence[str]) -> int:
    if words[0] == "end" and len(words) == 2 and words[1].isdecimal() and int(words[1]) < 1 << 16:
        with suppress(ValueError):
            return os.waitstatus_to_exitcode(int(words[1]))
    if words[0] == "fail":
        raise CommandStartError(command, why=" ".join(words[1:]))
    raise SandboxError("the connection to the terminal ended before the command did")


def _write_all(terminal: int, content: bytes) -> None:
    while content:
        content = content[os.write(terminal, content) :]
