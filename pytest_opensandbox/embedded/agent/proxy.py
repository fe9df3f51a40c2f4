"""The reverse proxy to other ports of the sandbox: ``/proxy/{port}/...`` goes to its loopback, IPv4 or IPv6."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from .http import TEXT_TYPE, Environ, Response, StartResponse
from .upgrades import CHANGE, MOST_CONNECTIONS, SWITCHING_PROTOCOLS, TooManyConnectionsError, is_upgrade, join

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

IsDisconnected = Callable[[], bool]

CHUNK_BYTES = 65_536
_PREFIX = "/proxy/"
_POLL_SECONDS = 0.5
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_FOLD = re.compile(r"[\r\n]+[ \t]*")
_OWN_TOKEN = "x-execd-access-token"  # noqa: S105 - a header's name


class _DisconnectMonitor:
    """Closes connections to services whose client has gone, which an idle event stream would not notice."""

    def __init__(self) -> None:
        self._clients: dict[socket.socket, IsDisconnected] = {}
        self._lock = threading.Lock()

    def add(self, sock: socket.socket, is_disconnected: IsDisconnected) -> None:
        """Monitor one response; ``sock`` is the connection to the service."""
        with self._lock:
            self._clients[sock] = is_disconnected
            if len(self._clients) == 1:
                threading.Thread(target=self._poll, daemon=True).start()

    def remove(self, sock: socket.socket) -> None:
        """Stop monitoring a response."""
        with self._lock:
            del self._clients[sock]

    def _poll(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            with self._lock:
                if not self._clients:
                    return
                for sock, is_disconnected in self._clients.items():
                    if is_disconnected():
                        with suppress(OSError):
                            sock.shutdown(socket.SHUT_RDWR)


_monitor = _DisconnectMonitor()


def take_port(environ: Environ, own_port: int) -> str | None:
    """Take ``/proxy/{port}`` off the path, repeatedly while the port is the agent's own.

    Args:
        environ: the WSGI environment; its path is changed.
        own_port: the port that stands for the agent.

    Returns:
        Another port, as it was written, or None when the request is for the agent.
    """
    while environ["PATH_INFO"].startswith(_PREFIX):
        port, _, rest = environ["PATH_INFO"].removeprefix(_PREFIX).partition("/")
        environ["PATH_INFO"] = "/" + rest
        if port != str(own_port):
            return str(port)
    return None


def forward(environ: Environ, start_response: StartResponse, port: str) -> Iterable[bytes]:
    """Send the request on and the response back, both as streams.

    A port where nothing listens is a 502. A WebSocket is joined with a connection to the port.
    """
    if not port:
        return _plain(start_response, 400, "port is required\n")
    from http.client import HTTPConnection, HTTPException

    try:
        connection = HTTPConnection("localhost", int(port))
        sock = connection.sock = _connect(int(port))
        _send(connection, environ)
        response = connection.getresponse()
        # A client might read an ambiguous length differently, and take the rest for the next response.
        if not response.chunked and not (response.getheader("Content-Length") or "0").isdecimal():
            raise HTTPException("Content-Length")
        if response.status == SWITCHING_PROTOCOLS:
            join(environ, connection, response)
    except TooManyConnectionsError:
        return _plain(start_response, 503, f"{MOST_CONNECTIONS} WebSockets are open: close some of them\n")
    except (OSError, ValueError, OverflowError, HTTPException):
        return _plain(start_response, 502, "Bad Gateway\n")
    start_response(f"{response.status} {response.reason}", _response_headers(response, environ["REQUEST_METHOD"]))
    return _body(connection, response, sock, environ["waitress.client_disconnected"])


def _connect(port: int) -> socket.socket:
    """Connect to a port of this sandbox's loopback: many servers on ``localhost`` listen on ::1 alone.

    Raises:
        OSError: nothing listens there; for IPv4, where neither answers.
    """
    try:
        return socket.create_connection(("127.0.0.1", port))
    except ConnectionRefusedError:
        with suppress(OSError):
            return socket.create_connection(("::1", port))
        raise


def _send(connection: HTTPConnection, environ: Environ) -> None:
    connection.putrequest(environ["REQUEST_METHOD"], _target(environ), skip_host=True, skip_accept_encoding=True)
    for name, value in _request_headers(environ).items():
        connection.putheader(name, value.encode("latin-1"))
    connection.endheaders()
    while chunk := environ["wsgi.input"].read(CHUNK_BYTES):
        connection.send(chunk)


def _target(environ: Environ) -> str:
    path = quote(environ["PATH_INFO"].encode("latin-1"), safe="/$&+,:;=@")
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def _request_headers(environ: Environ) -> dict[str, str]:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").title(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    headers = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP | {_OWN_TOKEN}}
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").title()] = environ[name]
    headers.setdefault("Host", "127.0.0.1")
    if is_upgrade(environ):
        headers |= CHANGE
    return {**headers, "X-Forwarded-For": environ.get("REMOTE_ADDR") or "127.0.0.1", "X-Forwarded-Proto": "http"}


def _response_headers(response: HTTPResponse, method: str) -> list[tuple[str, str]]:
    dropped = _HOP_BY_HOP | {"content-length"} if response.chunked else _HOP_BY_HOP
    headers = [(name, _FOLD.sub(" ", value)) for name, value in response.getheaders() if name.lower() not in dropped]
    if method == "HEAD" and response.getheader("Content-Length") is None:
        headers.append(("Content-Length", "0"))
    return headers


def _body(
    connection: HTTPConnection, response: HTTPResponse, sock: socket.socket, is_disconnected: IsDisconnected
) -> Iterator[bytes]:
    _monitor.add(sock, is_disconnected)
    try:
        while data := response.read1(CHUNK_BYTES):
            yield data
    finally:
        _monitor.remove(sock)
        response.close()
        connection.close()


def _plain(start_response: StartResponse, status: int, text: str) -> Iterable[bytes]:
    headers = {"Content-Type": TEXT_TYPE, "X-Content-Type-Options": "nosniff"}
    return Response(text.encode(), status, headers).send(start_response)
