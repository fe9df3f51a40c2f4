"""Authentication of callers, and limits for connections that have not shown the key yet."""

from __future__ import annotations

import copy
import hmac
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from waitress.parser import HTTPRequestParser
from waitress.utilities import BadRequest

from pytest_opensandbox.embedded.agent.upgrades import UpgradableChannel
from pytest_opensandbox.embedded.errors import RefusedError

KEY_HEADER = "OPEN_SANDBOX_API_KEY"
"""The header of the API key, as waitress and WSGI spell it."""

_OPEN_PATHS = ("/health", "/version")
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)
_SECRET_ROUTE = re.compile(r"/(?P<secret>[0-9a-f]{32})(?:/v1)?/sandboxes/(?P<id>[^/]+)/proxy/\d+(?:/|$)")
MAX_UNAUTHENTICATED = 256
"""Limit of connections that have not shown the key; a further one closes the oldest."""

_UNAUTHENTICATED_SECONDS = 10
_UNAUTHENTICATED_BODY_BYTES = 65_536


class Authenticator:
    """Checks the API key of a request, or the secret of the sandbox in its path.

    Args:
        api_key: gives access to everything.
        find_secret: returns the secret that gives access to the proxy of one sandbox, or "" for no such sandbox.
    """

    def __init__(self, api_key: str, find_secret: Callable[[str], str]) -> None:
        self._api_key = api_key
        self._find_secret = find_secret

    def check(self, environ: Mapping[str, Any]) -> None:
        """Refuse unauthenticated requests, and requests of browsers under a foreign host name (DNS rebinding).

        Args:
            environ: the request.

        Raises:
            RefusedError: status 401 or 403, or 404 for the proxy of a sandbox that is gone.
        """
        host = environ.get("HTTP_HOST", "")
        if not _LOOPBACK.fullmatch(host):
            message = f"This server is 127.0.0.1, not {host!r}."
            raise RefusedError(403, {"code": "HOST_NOT_ALLOWED", "message": message})
        given, path = environ.get(f"HTTP_{KEY_HEADER}", ""), environ["PATH_INFO"]
        if path.startswith(_OPEN_PATHS) or self.is_authenticated(given, path):
            return
        if (match := _SECRET_ROUTE.match(path)) and not self._find_secret(match["id"]):
            # The real server's proxy, which needs no key, answers so for a deleted sandbox; the id is no secret.
            message = f"Sandbox {match['id']} not found."
            raise RefusedError(404, {"code": "DOCKER::SANDBOX_NOT_FOUND", "message": message})
        if not given:
            message = "Authentication credentials are missing. Provide API key via OPEN-SANDBOX-API-KEY header."
            raise RefusedError(401, {"code": "MISSING_API_KEY", "message": message})
        message = "Authentication credentials are invalid. Check your API key and try again."
        raise RefusedError(401, {"code": "INVALID_API_KEY", "message": message})

    def is_authenticated(self, given: str, path: str) -> bool:
        """Say whether a request carries the API key, or in its path the secret of the sandbox that it goes to.

        Args:
            given: value of the API key header.
            path: decoded path.
        """
        if _is_equal(given, self._api_key):
            return True
        match = _SECRET_ROUTE.match(path)
        if match is None:
            return False
        secret = self._find_secret(match["id"])
        return secret != "" and _is_equal(match["secret"], secret)


def _is_equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), secret.encode())


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """A request as it arrives; only authenticated callers may send a long body.

    Waitress stores a body, on disk if it is long, before it calls the application.

    Args:
        connection: that it arrives on.
        adj: waitress's settings.
    """

    adj: Any
    error: Any
    completed: bool
    header_bytes_received: int
    headers: dict[str, str]
    path: str

    def __init__(self, connection: Connection, adj: Any) -> None:
        super().__init__(adj)
        self._connection = connection

    def received(self, data: bytes) -> int:
        """Parse bytes; refuse at once what cannot begin a request, such as TLS."""
        if not self.header_bytes_received and not data[:1].isalpha() and data[:1] not in b"\r\n":
            self.error, self.completed = BadRequest("This server speaks HTTP."), True
            return len(data)
        return int(super().received(data))

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the head, and limit the body by whether the caller is authenticated."""
        super().parse_header(header_plus)
        if self._connection.authenticator.is_authenticated(self.headers.get(KEY_HEADER, ""), self.path):
            self._connection.mark_authenticated()
        else:
            self.adj = copy.copy(self.adj)
            self.adj.max_request_body_size = _UNAUTHENTICATED_BODY_BYTES


class Connection(UpgradableChannel):
    """A connection that is closed soon unless a request on it is authenticated.

    Any user of this machine can connect, stay silent, and occupy a descriptor of this server. So only a limited number
    of such connections stay open, the newest ones, and each for a short time.

    Attributes:
        authenticator: knows who may ask.
    """

    authenticator: Authenticator
    unauthenticated: dict[Connection, float]
    requests: list[Any]
    will_close: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.parser_class = partial(Parser, self)
        super().__init__(*arguments, **options)
        if len(self.unauthenticated) >= MAX_UNAUTHENTICATED:
            next(iter(self.unauthenticated)).handle_close()
        self.unauthenticated[self] = time.monotonic() + _UNAUTHENTICATED_SECONDS

    def mark_authenticated(self) -> None:
        """Lift the limits after an authenticated request."""
        self.unauthenticated.pop(self, None)

    def readable(self) -> bool:
        """Say whether to wait for bytes; waitress asks at least once a second."""
        if not self.requests and time.monotonic() > self.unauthenticated.get(self, float("inf")):
            self.will_close = True
        return bool(super().readable())

    def handle_close(self) -> None:
        """Close the connection."""
        self.unauthenticated.pop(self, None)
        super().handle_close()


def connection_class(authenticator: Authenticator) -> type[Connection]:
    """Return the class of the connections of one server.

    Args:
        authenticator: knows who may ask.
    """
    return type("Connection", (Connection,), {"authenticator": authenticator, "unauthenticated": {}})
