"""Connections that change to another protocol, such as WebSocket: taken from the HTTP server, and joined with a peer.

The HTTP servers of the agent and of the lifecycle API both use this module.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from waitress.channel import ClientDisconnected, HTTPChannel

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

SWITCHING_PROTOCOLS = 101
"""Status of a response that agrees to the change."""
MOST_CONNECTIONS = 512
"""Connections of one server that may be joined at a time; each takes two threads."""

_CHUNK_BYTES = 65_536
_PARK_SECONDS = 10.0
_slots = threading.BoundedSemaphore(MOST_CONNECTIONS)


class TooManyConnectionsError(Exception):
    """As many connections are joined as may be at a time."""


class UpgradableChannel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection that can be taken from the HTTP server while a request on it is answered."""

    _is_leaving = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._is_parked = threading.Event()
        super().__init__(*arguments, **options)

    def readable(self) -> bool:
        """Say whether the server's loop shall read; the loop asks before each wait."""
        if self._is_leaving:
            self._is_parked.set()
            return False
        return bool(super().readable())

    def take_socket(self) -> socket.socket:
        """Return the connection's socket, which the server's loop reads no more.

        Raises:
            OSError: the connection has ended.
        """
        self._is_leaving = True
        self.server.pull_trigger()
        if not self._is_parked.wait(_PARK_SECONDS):
            raise ConnectionError("the server's loop does not let the connection go")
        taken = socket.socket(fileno=os.dup(self.socket.fileno()))
        taken.setblocking(True)
        return taken


CHANGE = {"Connection": "Upgrade", "Upgrade": "websocket"}
"""The headers that ask for a change, which are not passed on otherwise."""


def is_upgrade(environ: Mapping[str, Any]) -> bool:
    """Return whether a request asks to change to WebSocket."""
    words = [word.strip().lower() for word in environ.get("HTTP_CONNECTION", "").split(",")]
    is_get = environ["REQUEST_METHOD"] == "GET" and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
    return is_get and environ.get("HTTP_UPGRADE", "").strip().lower() == "websocket" and "upgrade" in words


def join(environ: Mapping[str, Any], connection: HTTPConnection, response: HTTPResponse) -> NoReturn:
    """Answer a request with the peer's 101, and join both connections until both have ended, in threads of their own.

    Args:
        environ: the request.
        connection: to the peer, which has agreed to the change; closed at the end.
        response: the peer's.

    Raises:
        TooManyConnectionsError: nothing was sent to the client.
        OSError: the client has gone, or has not asked for a change.
        ClientDisconnected: always otherwise; waitress then forgets the connection.
    """
    if not is_upgrade(environ):
        raise ConnectionError("the peer changes the protocol although the client has not asked for that")
    if not _slots.acquire(blocking=False):
        raise TooManyConnectionsError
    try:
        peer = socket.socket(fileno=os.dup(connection.sock.fileno()))
        peer.setblocking(False)
        # What the peer has sent behind its response.
        first = response.fp.peek() if response.fp else b""
        peer.setblocking(True)
        head = "".join(f"{name}: {value}\r\n" for name, value in response.getheaders())
        # The channel is in no other place of the environment.
        client = environ["waitress.client_disconnected"].__self__.take_socket()
        client.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{head}\r\n".encode("latin-1") + first)
    except BaseException:
        _slots.release()
        raise
    finally:
        connection.close()
    threading.Thread(target=_serve, args=(client, peer), name="upgraded", daemon=True).start()
    raise ClientDisconnected


def _serve(client: socket.socket, peer: socket.socket) -> None:
    """Copy both directions until each has ended."""
    back = threading.Thread(target=_copy, args=(peer, client), name="upgraded, back", daemon=True)
    back.start()
    _copy(client, peer)
    back.join()
    client.close()
    peer.close()
    _slots.release()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy one direction to its end, and end it on the other side; a failure ends both sides."""
    try:
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
