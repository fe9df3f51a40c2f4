"""The HTTP proxy of the lifecycle server: it forwards requests to any port in a sandbox, through the agent."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import IO, Any
from urllib.parse import unquote

from pytest_opensandbox.embedded.agent.upgrades import (
    CHANGE,
    MOST_CONNECTIONS,
    SWITCHING_PROTOCOLS,
    TooManyConnectionsError,
    is_upgrade,
    join,
)
from pytest_opensandbox.embedded.errors import RefusedError, refuse
from pytest_opensandbox.embedded.runtime.agent_connections import EXECD_PORT, TOKEN_HEADER, AgentSocket
from pytest_opensandbox.embedded.state.sandboxes import SandboxRecord, SandboxRegistry

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")

_GAP_SECONDS = 180
_CHUNK_BYTES = 65536
# The standard library takes 100 headers, but as many interim answers as there are.
_HEAD_LINES = 500
_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers"),
    *("transfer-encoding", "upgrade"),
}
_NOT_FORWARDED = {
    *("authorization", "cookie", "open-sandbox-api-key", "opensandbox-secure-access", "opensandbox-access-renew"),
    *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"),
    *("host", "content-length", TOKEN_HEADER.lower()),
}
_ROUTE = re.compile(r"(?:/[0-9a-f]{32})?(?:/v1)?/sandboxes/[^/]+/proxy/\d+(?:/|$)")
_TARGET = re.compile(
    r"(?:https?://[^/]*)?"  # a request's target may be a whole URL
    r"(?P<route>(?:/[0-9a-f]{32})?(?:/v1)?/sandboxes/(?P<id>[^/]+)/proxy/(?P<port>\d{1,5}))(?P<path>/[^?]*)?(?P<query>\?.*)?"
)
_FOLD = re.compile(r"[\r\n]+[ \t]*")
# The agent's response when nothing listens on the port to forward to.
_NOTHING_LISTENS = (502, b"Bad Gateway")


class _Body:
    """The body of a proxied response, passed on as it arrives.

    Args:
        connection: closed with the body.
        response: from the agent.
        first: bytes that were read already.
    """

    def __init__(self, connection: HTTPConnection, response: HTTPResponse, first: bytes) -> None:
        self._connection = connection
        self._response = response
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        try:
            while data := self._response.read1(_CHUNK_BYTES):
                yield data
        except HTTPException as error:
            raise ConnectionError(str(error)) from error
        if self._response.length:  # less than the announced length: the caller must not take this for the end
            raise ConnectionError(f"{self._response.length} bytes are missing")

    def close(self) -> None:
        """Close the connection; the agent then stops its work for this request."""
        self._response.close()
        self._connection.close()


def is_proxied(path: str) -> bool:
    """Say whether a decoded path belongs to the proxy."""
    return _ROUTE.match(path) is not None


def forward(
    registry: SandboxRegistry, environ: Mapping[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer a WSGI request with the response of a port in a sandbox.

    Args:
        registry: the sandboxes.
        environ: the request, with ``REQUEST_URI`` as it was on the wire.
        start_response: as WSGI has it.

    Raises:
        RefusedError: the port does not answer, or not in time.
    """
    match = _TARGET.fullmatch(environ["REQUEST_URI"])
    if match is None or environ["REQUEST_METHOD"] not in METHODS:
        raise RefusedError(405, {"detail": "Method Not Allowed"})
    record, port = registry.get(unquote(match["id"])), int(match["port"])
    response, body = _ask(record, port, (match["path"] or "/") + (match["query"] or ""), environ)
    headers = _answer_headers(response, match["route"])
    write = start_response(f"{response.status} {response.reason or 'Unknown'}", headers)
    write(b"")  # sends the headers now, as the first bytes of the body may be long in coming
    return body


def _ask(record: SandboxRecord, port: int, target: str, environ: Mapping[str, Any]) -> tuple[HTTPResponse, _Body]:
    """Send a request to the agent, and return its response as soon as its head has arrived."""
    connection = _AgentConnection(record.process.agent, port)
    try:
        method = environ["REQUEST_METHOD"]
        path = target if port == EXECD_PORT else f"/proxy/{port}{target}"
        connection.request(method, path, body=_request_body(method, environ), headers=_headers(record, environ))
        response = connection.getresponse()
        _check_length(response)
        if response.status == SWITCHING_PROTOCOLS:
            join(environ, connection, response)
        first = response.read1(_CHUNK_BYTES) if response.status == _NOTHING_LISTENS[0] else b""
        if (response.status, first.strip()) == _NOTHING_LISTENS:
            raise ConnectionRefusedError(f"nothing listens on port {port}")
    except TooManyConnectionsError:
        connection.close()
        refuse(503, "SANDBOX::TOO_MANY_REQUESTS", f"{MOST_CONNECTIONS} WebSockets are open: close some of them.")
    except BaseException as error:
        connection.close()
        _explain(error, f"{record.id}:{port}")
        raise
    return response, _Body(connection, response, first)


class _Lines:
    """The lines of a head, up to a limit.

    Args:
        file: to read them from.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _HEAD_LINES

    def readline(self, size: int = -1) -> bytes:
        """Return the next line, or at most ``size`` bytes of it.

        Raises:
            HTTPException: it is one too many.
        """
        self._left -= 1
        if self._left < 0:
            raise HTTPException(f"a head of more than {_HEAD_LINES} lines")
        return self._file.readline(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _LimitedResponse(HTTPResponse):
    """A response with a limited head: a process that replaced the agent could keep a thread busy without end."""

    def begin(self) -> None:
        """Read the head.

        Raises:
            HTTPException: the head is malformed, or has too many lines.
        """
        file = self.fp
        self.fp = _Lines(file)  # type: ignore[assignment]  # HTTPResponse uses no other method here
        try:
            super().begin()
        finally:
            if self.fp is not None:  # else it has been closed
                self.fp = file


class _AgentConnection(HTTPConnection):
    """A connection that goes over the agent's socket instead of TCP."""

    response_class = _LimitedResponse

    def __init__(self, agent: AgentSocket, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._agent = agent

    def connect(self) -> None:
        """Connect to the agent."""
        self.sock: socket.socket = self._agent.connect(_GAP_SECONDS)


def _request_body(method: str, environ: Mapping[str, Any]) -> IO[bytes] | None:
    """Return the stream to send, None for none; bodies of GET are dropped, as the real proxy does."""
    stream: IO[bytes] = environ["wsgi.input"]
    return stream if method != "GET" and environ.get("CONTENT_LENGTH") else None


def _headers(record: SandboxRecord, environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers to send on: the caller's without credentials, ours for the agent."""
    named = {key[5:].replace("_", "-").title(): value for key, value in environ.items() if key.startswith("HTTP_")}
    dropped = _NOT_FORWARDED | {name.strip().lower() for name in named.get("Connection", "").split(",")}
    headers = {name: value for name, value in named.items() if _is_end_to_end(name) and name.lower() not in dropped}
    if "CONTENT_TYPE" in environ:
        headers["Content-Type"] = environ["CONTENT_TYPE"]
    if environ["REQUEST_METHOD"] != "GET" and environ.get("CONTENT_LENGTH"):
        headers["Content-Length"] = environ["CONTENT_LENGTH"]
    return {
        "Accept-Encoding": "identity",
        **headers,
        **(CHANGE if is_upgrade(environ) else {}),
        "X-Forwarded-For": environ["REMOTE_ADDR"],
        "X-Forwarded-Host": environ.get("HTTP_HOST", ""),
        "X-Forwarded-Proto": "http",
        TOKEN_HEADER: record.process.token,
    }


def _check_length(response: HTTPResponse) -> None:
    """Refuse a response with two lengths, because the caller might use the other one.

    Raises:
        HTTPException: the length is not one number.
    """
    length = response.getheader("Content-Length")
    if length is not None and not response.chunked and not (length.isascii() and length.isdigit()):
        raise HTTPException(f"Content-Length {length!r}")


def _answer_headers(response: HTTPResponse, route: str) -> list[tuple[str, str]]:
    """Return the headers to pass on: unfolded, and without a length where the body is in chunks."""
    dropped = {"content-length"} if response.chunked else set()
    return [
        (name, _relocate(name, _FOLD.sub(" ", value), route))
        for name, value in response.getheaders()
        if _is_end_to_end(name) and name.lower() not in dropped
    ]


def _is_end_to_end(name: str) -> bool:
    return name.lower() not in _HOP_BY_HOP


def _relocate(name: str, value: str, route: str) -> str:
    """Keep a redirect to an absolute path inside the proxy."""
    is_path = name.lower() == "location" and value.startswith("/") and not value.startswith("//")
    return route + value if is_path else value


def _explain(error: BaseException, where: str) -> None:
    """Raise the refusal for a failure on the way to the agent; return for any other."""
    if isinstance(error, TimeoutError):
        refuse(504, "BACKEND_TIMEOUT", f"The sandbox {where} did not answer within {_GAP_SECONDS} s.")
    if isinstance(error, (BrokenPipeError, ConnectionResetError, HTTPException)):
        refuse(
            502, "BACKEND_RESPONSE_FAILED", f"The sandbox {where} dropped the connection or answered nonsense: {error}"
        )
    if isinstance(error, OSError):
        refuse(502, "BACKEND_CONNECTION_FAILED", f"Could not connect to the backend sandbox {where}: {error}")
