"""The way to any other port inside the sandbox: ``/proxy/{port}/...`` goes on to its loopback, IPv4 or IPv6."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
IsGone = Callable[[], bool]

CHUNK_BYTES = 65_536
_PREFIX = "/proxy/"
_WATCH_SECONDS = 0.5
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


class _Watch:
    """Cuts off services whose client has gone while they had nothing to say, such as an idle event stream."""

    def __init__(self) -> None:
        self._answers: dict[socket.socket, IsGone] = {}
        self._lock = threading.Lock()

    def add(self, sock: socket.socket, is_gone: IsGone) -> None:
        """Watch over one answer; ``sock`` is the connection to the service."""
        with self._lock:
            self._answers[sock] = is_gone
            if len(self._answers) == 1:
                threading.Thread(target=self._look, daemon=True).start()

    def remove(self, sock: socket.socket) -> None:
        """Leave it alone again."""
        with self._lock:
            del self._answers[sock]

    def _look(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                if not self._answers:
                    return
                for sock, is_gone in self._answers.items():
                    if is_gone():
                        with suppress(OSError):
                            sock.shutdown(socket.SHUT_RDWR)


_watch = _Watch()


def take_port(environ: Environ, own_port: int) -> str | None:
    """Take ``/proxy/{port}`` off the path, as often as it is there and means the agent itself.

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
    """Send the request on and the answer back, both as streams.

    A port where nothing listens is a 502. A websocket is a 501: waitress cannot give up its connection.
    """
    if not port:
        return _plain(start_response, "400 Bad Request", "port is required\n")
    if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
        text = "websockets are not passed on by this agent: use --opensandbox-url docker\n"
        return _plain(start_response, "501 Not Implemented", text)
    from http.client import HTTPConnection, HTTPException

    try:
        connection = HTTPConnection("localhost", int(port))
        sock = connection.sock = _connect(int(port))
        _send(connection, environ)
        answer = connection.getresponse()
        # Two lengths, or half of one: the client might believe the other.
        if not answer.chunked and not (answer.getheader("Content-Length") or "0").isdecimal():
            raise HTTPException("Content-Length")
    except (OSError, ValueError, OverflowError, HTTPException):
        return _plain(start_response, "502 Bad Gateway", "Bad Gateway\n")
    start_response(f"{answer.status} {answer.reason}", _answer_headers(answer, environ["REQUEST_METHOD"]))
    return _body(connection, answer, sock, environ["waitress.client_disconnected"])


def _connect(port: int) -> socket.socket:
    """Connect to a port of this sandbox's loopback: many servers that are told ``localhost`` listen on ::1 alone.

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
    path = quote(environ["PATH_INFO"].encode("latin-1"), safe="/$&+,:;=@")
    query = environ.get("QUERY_STRING", "")
    connection.putrequest(
        environ["REQUEST_METHOD"], f"{path}?{query}" if query else path, skip_host=True, skip_accept_encoding=True
    )
    for name, value in _request_headers(environ).items():
        connection.putheader(name, value.encode("latin-1"))
    connection.endheaders()
    while chunk := environ["wsgi.input"].read(CHUNK_BYTES):
        connection.send(chunk)


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
    return {**headers, "X-Forwarded-For": environ.get("REMOTE_ADDR") or "127.0.0.1", "X-Forwarded-Proto": "http"}


def _answer_headers(answer: HTTPResponse, method: str) -> list[tuple[str, str]]:
    dropped = _HOP_BY_HOP | {"content-length"} if answer.chunked else _HOP_BY_HOP
    headers = [(name, _FOLD.sub(" ", value)) for name, value in answer.getheaders() if name.lower() not in dropped]
    if method == "HEAD" and answer.getheader("Content-Length") is None:
        headers.append(("Content-Length", "0"))
    return headers


def _body(connection: HTTPConnection, answer: HTTPResponse, sock: socket.socket, is_gone: IsGone) -> Iterator[bytes]:
    _watch.add(sock, is_gone)
    try:
        while data := answer.read1(CHUNK_BYTES):
            yield data
    finally:
        _watch.remove(sock)
        answer.close()
        connection.close()


def _plain(start_response: StartResponse, status: str, text: str) -> list[bytes]:
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
    start_response(status, [*headers, ("X-Content-Type-Options", "nosniff")])
    return [text.encode()]
