"""Connections that keep deadlines below the HTTP library, and the root causes of its errors."""

from __future__ import annotations

import io
import queue
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from math import inf
from typing import Any

import requests
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.transport.retry import Deadline, current_deadline

FAILURES = (requests.RequestException, HTTPError, HTTPException, OSError, UnicodeError)
"""What the HTTP libraries raise where no complete response comes."""

_LEAST_SECONDS = 0.001  # a socket takes 0 for "do not wait at all"


class TooSlowError(TimeoutError):
    """Bytes came or were taken too slowly for the time limit."""


class _LimitedStream(io.RawIOBase):
    """The incoming side of a socket, with an optional time limit for several reads together."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._ends_at = inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        deadline = current_deadline()
        left = min(self._ends_at - monotonic(), deadline.seconds_left)
        if left <= 0:
            raise TooSlowError("the response came too slowly")
        allowed = self._sock.gettimeout()
        if left != inf and allowed != 0:
            self._sock.settimeout(left if self._ends_at != inf or allowed is None else min(left, allowed))
        if deadline.probe is not None and allowed != 0:
            self._wait_probing(deadline)
        return self._raw.readinto(buffer)

    def _wait_probing(self, deadline: Deadline) -> None:
        """Return when there is something to read, or when the socket's time limit has passed; probe meanwhile."""
        seconds = self._sock.gettimeout()
        end = inf if seconds is None else monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            while not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                left = end - monotonic()
                if left <= 0 or selector.select(min(left, deadline.probe_seconds)):
                    break
                deadline.run_probe()
            # The socket does not know how long this method has waited, so its limit becomes what is left.
            self._sock.settimeout(max(min(end - monotonic(), 86_400.0), _LEAST_SECONDS))

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()

    @contextmanager
    def one_limit(self) -> Iterator[None]:
        """Let all reads in the block together take as long as the socket's time limit allows for one."""
        seconds = self._sock.gettimeout()
        self._ends_at = inf if seconds is None else monotonic() + seconds
        try:
            yield
        finally:
            self._ends_at = inf
            with suppress(OSError):  # the socket may be closed
                self._sock.settimeout(seconds)

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Let reads in the block return what has arrived, without waiting."""
        seconds, ends_at = self._sock.gettimeout(), self._ends_at
        self._ends_at = inf
        try:
            with suppress(OSError):
                self._sock.settimeout(0)
            yield
        finally:
            self._ends_at = ends_at
            with suppress(OSError):
                self._sock.settimeout(seconds)


class _HeaderLines:
    """The status line and headers of a response, and whether an empty line ended them.

    Args:
        file: the response as it arrives.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.close = file.close
        self.are_complete = False

    def readline(self, limit: int = -1) -> bytes:
        line = self.file.readline(limit)
        self.are_complete = line in (b"\r\n", b"\n")
        return line


class _TimedResponse(HTTPResponse):
    """A response whose headers, and each piece of whose body, must come within the socket's time limit.

    The library's own limit starts anew with each byte. It also reads interim responses and trailers without end.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.has_more = False
        self._stream = _LimitedStream(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._stream)

    def begin(self) -> None:
        lines = _HeaderLines(self.fp)
        self.fp = lines  # type: ignore[assignment]  # http.client only calls readline here
        try:
            with self._stream.one_limit():
                super().begin()
        finally:
            if self.fp is not None:
                self.fp = lines.file
        # The library takes the end of the connection for the end of the headers, and missing headers for no body.
        if not lines.are_complete:
            raise HTTPException("the response ended in its headers")

    def read1(self, n: int = -1) -> bytes:
        with self._stream.one_limit():
            return super().read1(n)

    def _close_conn(self) -> None:
        # The library calls this at the end of a body, and drops the bytes that follow.
        if self.length == 0:
            with self._stream.without_waiting(), suppress(OSError, ValueError):
                self.has_more = bool(self.fp.peek(1))
        super()._close_conn()  # type: ignore[misc]  # typeshed does not list it


class _LimitedConnection(HTTPConnection):
    """A connection that is made, and written to, within its own time limit and the deadline of the call.

    The library's limit starts anew with each address of a host and, under TLS, with each record that is sent. It does
    not cover the name server.
    """

    _piece_bytes = 256 * 1024
    _response: _TimedResponse | None = None

    def response_class(self, *args: Any, **kwargs: Any) -> HTTPResponse:  # type: ignore[override]  # called the same
        self._response = _TimedResponse(*args, **kwargs)
        return self._response

    def getresponse(self) -> Any:
        try:
            return super().getresponse()
        except BaseException:
            # urllib3 refuses some headers after the standard library has given the socket to the response.
            if self._response is not None:
                self._response.close()
            raise
        finally:
            self._response = None

    def _new_conn(self) -> socket.socket:
        deadline = monotonic() + self._allowed
        try:
            addresses = _addresses(self._dns_host, self.port, self._allowed)
            return _connect(addresses, deadline, self.source_address, self.socket_options)
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, f"no connection to {self.host} within the time limit") from exc
        except OSError as exc:
            raise NewConnectionError(self, f"no connection: {exc}") from exc

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        whole = memoryview(data)
        for start in range(0, len(whole), self._piece_bytes):
            if start and current_deadline().seconds_left <= 0:
                raise TooSlowError("the server read the request too slowly")
            self.sock.settimeout(self._allowed)
            super().send(whole[start : start + self._piece_bytes])

    @property
    def _allowed(self) -> float:
        """Seconds for the next operation."""
        seconds = self.timeout if isinstance(self.timeout, (int, float)) else inf
        # A socket does not accept infinity as its limit; a day is enough.
        return max(min(float(seconds), current_deadline().seconds_left, 86_400.0), _LEAST_SECONDS)


class _Connection(_LimitedConnection):
    pass


class _TlsConnection(_LimitedConnection, HTTPSConnection):
    _piece_bytes = 16 * 1024  # one record


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _addresses(host: str, port: int, seconds: float) -> list[Any]:
    """Return the addresses of a host from ``getaddrinfo``, within a time limit that the function itself lacks.

    Raises:
        TimeoutError: the name server did not answer in time.
        OSError: no such host.
    """
    host = host.strip("[]")
    with suppress(socket.gaierror):
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as exc:
            answers.put(exc)

    threading.Thread(target=ask, name="opensandbox-resolver", daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no address of {host} within the time limit") from None
    if isinstance(found, Exception):
        raise found
    return found


def _connect(addresses: list[Any], deadline: float, source: Any, options: Any) -> socket.socket:
    """Return a socket connected to the first address that accepts; each address gets its share of the time."""
    error: OSError = OSError("the host has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options or ():
                sock.setsockopt(*option)
            share = (deadline - monotonic()) / (len(addresses) - number)
            sock.settimeout(max(share, _LEAST_SECONDS))
            if source:
                sock.bind(source)
            sock.connect(address)
            sock.settimeout(max(deadline - monotonic(), _LEAST_SECONDS))
        except OSError as exc:
            error = exc
            sock.close()
        else:
            return sock
    raise error


POOLS = {"http": _Pool, "https": _TlsPool}
"""Connection pools by scheme, for ``PoolManager.pool_classes_by_scheme``."""


def has_more(raw: Any) -> bool:
    """Return whether bytes follow the body of a response that was read to its end.

    Args:
        raw: the response as urllib3 has it.
    """
    return bool(getattr(getattr(raw, "_original_response", None), "has_more", False))


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost error of those that the HTTP libraries wrapped around each other."""
    seen: set[int] = set()
    below: BaseException | None = error
    while below is not None:
        error = below
        seen.add(id(error))
        inner = [getattr(error, "reason", None), error.__cause__, error.__context__, *error.args]
        below = next((one for one in inner if isinstance(one, BaseException) and id(one) not in seen), None)
    return error
