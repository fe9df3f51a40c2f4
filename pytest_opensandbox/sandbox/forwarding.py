"""TCP connections into a sandbox, and out of it to one port of this machine, over its bridge."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from pytest_opensandbox.errors import OpenSandboxError
from pytest_opensandbox.sandbox.bridge import Bridge
from pytest_opensandbox.transport.websocket import WebSocket

EOF = "eof"
RESET = "reset"
REFUSED = "refused"
OPEN = "open"
STANDBY = 4
"""Connections of a bridge that wait for one from the sandbox; each that is used is replaced at once."""

_CHUNK_BYTES = 60 * 1024
_BACKLOG = 128
_JOIN_SECONDS = 5.0


class Connections:
    """The open connections of a forwarded or exposed port, and the threads that carry them."""

    def __init__(self) -> None:
        self._open: set[tuple[WebSocket, socket.socket | None]] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def begin(self, carry: Callable[[], None]) -> None:
        """Run something in a thread of its own, unless all is closed already."""

        def run() -> None:
            with suppress(OpenSandboxError, OSError):
                carry()
            with self._lock:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="opensandbox-forwarding", daemon=True)
        with self._lock:
            if self._is_closed:
                return
            self._threads.add(thread)
        thread.start()

    def carry(self, web_socket: WebSocket, sock: socket.socket) -> bool:
        """Carry one connection to its end, and close both; return False where the sandbox has refused it."""
        pair = (web_socket, sock)
        is_accepted = relay(web_socket, sock) if self._note(pair) else True
        self._forget(pair)
        return is_accepted

    def hold(self, web_socket: WebSocket) -> bool:
        """Close this connection, too, when all is closed; return False if that was before."""
        return self._note((web_socket, None))

    def release(self, web_socket: WebSocket) -> None:
        """Leave this connection to the caller again."""
        with self._lock:
            self._open.discard((web_socket, None))

    def close(self) -> None:
        """End all connections, and wait for their threads."""
        with self._lock:
            self._is_closed = True
            pairs, threads = set(self._open), set(self._threads)
        for web_socket, _ in pairs:
            # The other end, which has not ended in order, is reset by its thread.
            web_socket.close()
        for thread in threads:
            thread.join(_JOIN_SECONDS)

    def _note(self, pair: tuple[WebSocket, socket.socket | None]) -> bool:
        with self._lock:
            if not self._is_closed:
                self._open.add(pair)
                return True
        self._forget(pair)
        return False

    def _forget(self, pair: tuple[WebSocket, socket.socket | None]) -> None:
        with self._lock:
            self._open.discard(pair)
        for end in pair:
            if end is not None:
                end.close()


class ForwardedPort:
    """A local port whose connections arrive at a port in the sandbox.

    Args:
        bridge: into the sandbox; closed with this.
        port: in the sandbox.
        note: called with the reason for each connection that the sandbox refused.
    """

    def __init__(self, bridge: Bridge, port: int, note: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._port = port
        self._note = note
        self._connections = Connections()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.address: tuple[str, int] = self._listener.getsockname()
        """Host and port to connect to."""
        threading.Thread(target=self._accept, name="opensandbox-forward", daemon=True).start()

    def close(self) -> None:
        """Refuse new connections, end those that are open, and end the bridge."""
        _shut(self._listener)
        self._listener.close()
        self._connections.close()
        self._bridge.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._connections.begin(lambda sock=sock: self._carry(sock))  # type: ignore[misc]  # mypy cannot infer it

    def _carry(self, sock: socket.socket) -> None:
        try:
            web_socket = self._bridge.open(f"tcp/{self._port}")
        except OpenSandboxError as exc:
            self._note(str(exc))
            _reset(sock)
            return
        if not self._connections.carry(web_socket, sock):
            self._note(f"no server listens on port {self._port}")


class ExposedPort:
    """A port in the sandbox whose connections arrive at one port of this machine, and at no other.

    Args:
        bridge: into the sandbox, with an inner port; closed with this.
        address: host and port of the server on this machine.
        note: called with the reason for each connection that could not be made.
    """

    def __init__(self, bridge: Bridge, address: tuple[str, int], note: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._address = address
        self._note = note
        self._connections = Connections()
        for _ in range(STANDBY):
            self._connections.begin(self._stand_by)

    def close(self) -> None:
        """End all connections, and end the bridge."""
        self._connections.close()
        self._bridge.close()

    def _stand_by(self) -> None:
        """Wait for one connection from the sandbox, have another thread wait for the next one, and carry it."""
        web_socket = self._bridge.open("accept")
        if not self._connections.hold(web_socket) or web_socket.receive() != OPEN:
            web_socket.close()
            return
        self._connections.release(web_socket)
        self._connections.begin(self._stand_by)
        try:
            sock = socket.create_connection(self._address)
        except OSError as exc:
            self._note(f"{self._address[0]}:{self._address[1]} cannot be reached: {exc}")
            web_socket.send(RESET)
            web_socket.close()
            return
        self._connections.carry(web_socket, sock)


def relay(web_socket: WebSocket, sock: socket.socket) -> bool:
    """Carry bytes both ways until each direction has ended, or one end is lost; return False for a refusal."""
    there = threading.Thread(target=_send, args=(web_socket, sock), name="opensandbox-forwarding", daemon=True)
    there.start()
    is_accepted = _receive(web_socket, sock)
    there.join()
    return is_accepted


def _send(web_socket: WebSocket, sock: socket.socket) -> None:
    with suppress(OpenSandboxError):
        try:
            while data := sock.recv(_CHUNK_BYTES):
                web_socket.send(data)
            web_socket.send(EOF)
        except OSError:
            web_socket.send(RESET)
            web_socket.close()


def _receive(web_socket: WebSocket, sock: socket.socket) -> bool:
    has_ended = False
    while (message := web_socket.receive()) is not None and message not in (RESET, REFUSED):
        try:
            if isinstance(message, bytes):
                sock.sendall(message)
            elif message == EOF:
                has_ended = True
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            with suppress(OpenSandboxError):
                web_socket.send(RESET)
            web_socket.close()
            break
    if has_ended and message != RESET:
        _shut(sock)
    else:
        _reset(sock)
    return message != REFUSED


def _reset(sock: socket.socket) -> None:
    """Close a connection with a reset; another thread that reads from it finds its end."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    sock.close()


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
