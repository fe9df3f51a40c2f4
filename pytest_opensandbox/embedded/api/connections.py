"""Connections of the HTTP server, with limits for those that have not shown the key yet."""

from __future__ import annotations

import copy
import time
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.utilities import BadRequest

from pytest_opensandbox.embedded.api.callers import KEY_HEADER, Callers

UNKNOWN_CONNECTIONS = 256
"""How many connections may not have shown the key yet; one more, and the oldest is closed."""

_UNKNOWN_SECONDS = 10
_UNKNOWN_BODY_BYTES = 65_536


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """A request as it arrives: a long body is for callers who may ask.

    The server keeps a body, on the disk if it is long, before the application hears of the request.

    Args:
        connection: what it arrives on.
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
        """Take in bytes; what cannot be how a request begins, such as TLS, is refused before more of it comes."""
        if not self.header_bytes_received and not data[:1].isalpha() and data[:1] not in b"\r\n":
            self.error, self.completed = BadRequest("This server speaks HTTP."), True
            return len(data)
        return int(super().received(data))

    def parse_header(self, header_plus: bytes) -> None:
        """Read the head, and decide by it how long the body may be."""
        super().parse_header(header_plus)
        if self._connection.callers.are_known(self.headers.get(KEY_HEADER, ""), self.path):
            self._connection.become_known()
        else:
            self.adj = copy.copy(self.adj)
            self.adj.max_request_body_size = _UNKNOWN_BODY_BYTES


class Connection(HTTPChannel):  # type: ignore[misc]  # as above
    """A connection, closed in good time unless a request on it shows that its caller may ask.

    Any user of this machine can connect, say nothing, and keep a descriptor of this server for it. So there is room for
    a number of such connections only, the newest ones, and a short time for each.

    Attributes:
        callers: who may ask.
    """

    callers: Callers
    unknown: dict[Connection, float]
    requests: list[Any]
    will_close: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.parser_class = partial(Parser, self)
        super().__init__(*arguments, **options)
        if len(self.unknown) >= UNKNOWN_CONNECTIONS:
            next(iter(self.unknown)).handle_close()
        self.unknown[self] = time.monotonic() + _UNKNOWN_SECONDS

    def become_known(self) -> None:
        """Lift the limits: a request on this connection has shown that its caller may ask."""
        self.unknown.pop(self, None)

    def readable(self) -> bool:
        """Say whether to wait for bytes; the server asks once a second at least."""
        if not self.requests and time.monotonic() > self.unknown.get(self, float("inf")):
            self.will_close = True
        return bool(super().readable())

    def handle_close(self) -> None:
        """Close the connection."""
        self.unknown.pop(self, None)
        super().handle_close()


def connection_class(callers: Callers) -> type[Connection]:
    """Return the class of the connections of one server.

    Args:
        callers: who may ask.
    """
    return type("Connection", (Connection,), {"callers": callers, "unknown": {}})
