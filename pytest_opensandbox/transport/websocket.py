"""One WebSocket connection to a port of a sandbox."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from pytest_opensandbox.errors import ApiError, OpenSandboxError, TransportError
from pytest_opensandbox.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

MAX_MESSAGE_BYTES = 1024 * 1024
"""Longest message that is accepted; bytes."""

_PING_SECONDS = 20
_QUEUED_MESSAGES = 4
_SHOWN_BYTES = 2_000


class WebSocket:
    """An open connection; one thread may send while another receives.

    Args:
        connection: as the library has it.
        close: ends it.
        as_error: turns the library's errors into ours.
    """

    def __init__(
        self, connection: ClientConnection, close: Callable[[], None], as_error: Callable[[Exception], OpenSandboxError]
    ) -> None:
        self._connection = connection
        self._close = close
        self._as_error = as_error
        self._closing = threading.Lock()

    def send(self, message: bytes | str) -> None:
        """Send one message; wait while the other side takes none.

        Raises:
            TransportError: the connection has ended.
        """
        try:
            self._connection.send(message)
        except Exception as exc:  # noqa: BLE001 - the library and the system have no common base
            raise self._as_error(exc) from None

    def receive(self) -> bytes | str | None:
        """Return the next message, or None at the end of the connection, however it came."""
        from websockets.exceptions import ConnectionClosed

        try:
            return self._connection.recv()
        except (ConnectionClosed, OSError, EOFError):
            return None

    def close(self) -> None:
        """End the connection at once; a thread that waits for a message gets None, one that sends an error."""
        # The library's own close waits for a thread that sends.
        with suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        with self._closing, suppress(Exception):
            self._close()


def open_websocket(
    url: str,
    headers: Mapping[str, str],
    *,
    route: Mapping[str, Any],
    timeouts: Timeouts,
    redact: Callable[[str], str],
) -> WebSocket:
    """Open a connection; redirects are not followed.

    Args:
        url: with the scheme http or https.
        headers: to send.
        route: ``proxies`` and ``verify``, as requests has them.
        timeouts: how long the opening may take.
        redact: masks secrets in what an error shows.

    Raises:
        ApiError: the server refuses the change of protocol.
        TransportError: no response.
    """
    from websockets.sync.client import connect

    def as_error(exc: Exception) -> OpenSandboxError:
        return _error(exc, redact(url), redact)

    stack = ExitStack()
    try:
        opening = _without_redirects(connect)(
            f"ws{url.removeprefix('http')}",
            additional_headers=dict(headers),
            compression=None,
            user_agent_header=None,
            ssl=_tls(route["verify"]) if url.startswith("https") else None,
            proxy=select_proxy(url, route["proxies"]) or None,
            open_timeout=timeouts.connect_seconds + timeouts.request_seconds,
            close_timeout=1,
            # A peer that reads slowly answers slowly, too.
            ping_interval=_PING_SECONDS,
            ping_timeout=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_QUEUED_MESSAGES,
        )
        return WebSocket(stack.enter_context(opening), stack.close, as_error)
    except Exception as exc:  # noqa: BLE001 - as above
        raise as_error(exc) from None


def _without_redirects(connect: Any) -> Any:
    """Return the library's connect; where it follows redirects, one that does not, because headers may be secrets."""
    if not isinstance(connect, type):
        return connect
    return type("Connect", (connect,), {"process_redirect": lambda self, exc: exc})


def _tls(verify: bool | str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH)
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _error(exc: Exception, url: str, redact: Callable[[str], str]) -> OpenSandboxError:
    from websockets.exceptions import InvalidStatus

    if isinstance(exc, InvalidStatus):
        text = bytes(exc.response.body or b"")[:_SHOWN_BYTES].decode("utf-8", "replace")
        return ApiError(exc.response.status_code, message=redact(text), method="GET", url=url)
    reason = redact(f"{exc or type(exc).__name__}")
    return TransportError(reason, method="GET", url=url, timed_out=isinstance(exc, TimeoutError))
