"""One WebSocket connection to a port of a sandbox."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from requests.auth import _basic_auth_str
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ApiError, OpenSandboxError, TransportError
from pytest_opensandbox.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from websockets.client import ClientProtocol

MAX_MESSAGE_BYTES = 1024 * 1024
"""Longest message that is accepted; bytes."""

_READ_BYTES = 256 * 1024
_PING_SECONDS = 20
_SHOWN_BYTES = 2_000


class WebSocket:
    """An open connection; one thread may send while another receives, and neither waits for the other.

    The library's own threaded connection does wait: a sender that the other side does not read from keeps its receiver
    from reading, so that two sides that both send much stop for ever. So this reads and writes the socket itself, and
    the library has the protocol alone.

    Args:
        sock: connected, after the handshake.
        protocol: as the library has it.
        as_error: turns the library's errors into ours.
    """

    def __init__(
        self, sock: socket.socket, protocol: ClientProtocol, as_error: Callable[[Exception], OpenSandboxError]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._protocol = protocol
        self._as_error = as_error
        self._using_socket = threading.Lock()
        self._state = threading.Lock()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._messages: deque[bytes | str] = deque()
        self._is_text = False
        self._has_ended = False
        self._has_output = False
        self._take_events()

    def send(self, message: bytes | str) -> None:
        """Send one message; wait while the other side takes none.

        Raises:
            TransportError: the connection has ended.
        """
        try:
            with self._sending:
                with self._state:
                    if isinstance(message, str):
                        self._protocol.send_text(message.encode())
                    else:
                        self._protocol.send_binary(message)
                self._write()
            self._write_if_possible()
        except Exception as exc:  # noqa: BLE001 - the library and the system have no common base
            raise self._as_error(exc) from None

    def receive(self) -> bytes | str | None:
        """Return the next message, a part of one in several frames, or None at the end of the connection.

        A ping goes out every 20 s while nothing comes, so that no proxy on the way takes the connection for dead.
        """
        with self._receiving:
            while not self._messages and not self._has_ended:
                try:
                    self._write_if_possible()
                    self._read()
                except (OSError, ValueError):
                    self._has_ended = True
            with suppress(OSError, ValueError):
                self._write_if_possible()
            return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        """End the connection at once; a thread that waits for a message gets None, one that sends an error."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        # Its number is free for others only when no thread uses it any more.
        with self._sending, self._receiving:
            self._has_ended = True
            self._sock.close()

    def _read(self) -> None:
        while True:
            try:
                # TLS serves one thread at a time.
                with self._using_socket:
                    data = self._sock.recv(_READ_BYTES)
                break
            except (BlockingIOError, ssl.SSLWantReadError):
                if not _wait(self._sock, select.POLLIN, _PING_SECONDS):
                    with self._state:
                        self._protocol.send_ping(b"")
                        self._has_output = True
                    return
            except ssl.SSLWantWriteError:
                _wait(self._sock, select.POLLOUT, _PING_SECONDS)
        with self._state:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
                self._has_ended = True
            self._take_events()

    def _take_events(self) -> None:
        from websockets.frames import Frame, Opcode

        for frame in self._protocol.events_received():
            if not isinstance(frame, Frame):
                continue  # the response of the handshake
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._is_text = frame.opcode is Opcode.TEXT
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                data = bytes(frame.data)
                self._messages.append(data.decode("utf-8", "replace") if self._is_text else data)
        self._has_ended = self._has_ended or self._protocol.close_expected()
        self._has_output = True  # such as the answer to a ping

    def _write(self) -> None:
        """Write what the protocol has to send; the caller is the one that sends."""
        while True:
            with self._state:
                pieces = self._protocol.data_to_send()
                self._has_output = False
            if not pieces:
                return
            for piece in pieces:
                self._write_all(memoryview(piece))

    def _write_all(self, rest: memoryview) -> None:
        while rest:
            try:
                with self._using_socket:
                    rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                _wait(self._sock, select.POLLOUT, _PING_SECONDS)
            except ssl.SSLWantReadError:
                _wait(self._sock, select.POLLIN, _PING_SECONDS)

    def _write_if_possible(self) -> None:
        """Write short answers that wait, unless that would have to wait: another send writes them then."""
        while self._has_output and _wait(self._sock, select.POLLOUT, 0) and self._sending.acquire(blocking=False):
            try:
                self._write()
            finally:
                self._sending.release()


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
    from websockets.client import ClientProtocol
    from websockets.uri import parse_uri

    def as_error(exc: Exception) -> OpenSandboxError:
        return _error(exc, redact(url), redact)

    end = monotonic() + timeouts.connect_seconds + timeouts.request_seconds
    try:
        protocol = ClientProtocol(parse_uri(f"ws{url.removeprefix('http')}"), max_size=MAX_MESSAGE_BYTES)
        sock = _connect(url, select_proxy(url, route["proxies"]), route["verify"], end - monotonic())
    except Exception as exc:  # noqa: BLE001 - as above
        raise as_error(exc) from None
    try:
        _shake_hands(sock, protocol, headers, end)
    except BaseException as exc:
        sock.close()
        if not isinstance(exc, Exception):
            raise
        raise as_error(exc) from None
    return WebSocket(sock, protocol, as_error)


def _connect(url: str, proxy: str | None, verify: bool | str, seconds: float) -> socket.socket:
    """Return a socket that is connected to the host of a URL, through the proxy's CONNECT where there is one."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    through = urlsplit(proxy if "//" in proxy else f"http://{proxy}") if proxy else None
    if through is not None and through.scheme != "http":
        raise OSError(f"WebSocket connections pass no {through.scheme} proxy; name an http:// proxy, or set NO_PROXY")
    near = (host, port) if through is None else (through.hostname or "", through.port or 80)
    connection = (
        HTTPSConnection(*near, timeout=seconds, context=_tls(verify))
        if parts.scheme == "https"
        else HTTPConnection(*near, timeout=seconds)
    )
    if through is not None:
        login = _basic_auth_str(unquote(through.username), unquote(through.password or "")) if through.username else ""
        connection.set_tunnel(host, port, {"Proxy-Authorization": login} if login else {})
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection.sock


def _shake_hands(sock: socket.socket, protocol: ClientProtocol, headers: Mapping[str, str], end: float) -> None:
    """Send the request, and read the response.

    Raises:
        websockets.exceptions.InvalidHandshake: the server does not change the protocol.
        OSError: no response in time.
    """
    from websockets.protocol import State

    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    sock.sendall(b"".join(protocol.data_to_send()))
    while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
        sock.settimeout(max(end - monotonic(), 0.001))
        if data := sock.recv(_READ_BYTES):
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
    if protocol.handshake_exc is not None:
        raise protocol.handshake_exc


def _wait(sock: socket.socket, event: int, seconds: float) -> bool:
    """Wait until a socket can be read from or written to; return False where it cannot in time."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(seconds * 1000))


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
