"""Below the HTTP library: answers that must come in their time, however slowly they drip, and causes of errors."""

from __future__ import annotations

import io
import queue
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from math import inf
from typing import Any

import requests
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from pytest_opensandbox.transport.retry import Deadline, current_deadline

FAILURES = (requests.RequestException, HTTPError, HTTPException, OSError, UnicodeError)
"""Everything that the HTTP libraries raise where no whole response comes."""

_LEAST_SECONDS = 0.001  # a socket takes 0 for "do not wait at all"


class TooSlowError(TimeoutError):
    """Bytes came or went, and not all of them in their time."""


class _Paced(io.RawIOBase):
    """The incoming side of a socket, with a time for several reads together where one is set."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._ends_at = inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        deadline = current_deadline()
        left = min(self._ends_at - time.monotonic(), deadline.seconds_left)
        if left <= 0:
            raise TooSlowError("it came too slowly")
        allowed = self._sock.gettimeout()
        if left != inf and allowed != 0:
            self._sock.settimeout(left if self._ends_at != inf or allowed is None else min(left, allowed))
        if deadline.probe is not None and allowed != 0:
            self._wait_probing(deadline)
        return self._raw.readinto(buffer)

    def _wait_probing(self, deadline: Deadline) -> None:
        """Return when there is something to read, or when the socket's time is over; probe in between."""
        seconds = self._sock.gettimeout()
        end = inf if seconds is None else time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            while not (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
                left = end - time.monotonic()
                if left <= 0 or selector.select(min(left, deadline.probe_seconds)):
                    break
                deadline.run_probe()
            # Not more than what is left: a socket keeps no account of what was waited for elsewhere.
            self._sock.settimeout(max(min(end - time.monotonic(), 86_400.0), _LEAST_SECONDS))

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all reads in the block take as long as the socket's time-out allows for one."""
        seconds = self._sock.gettimeout()
        self._ends_at = inf if seconds is None else time.monotonic() + seconds
        try:
            yield
        finally:
            self._ends_at = inf
            with suppress(OSError):  # it may have been closed
                self._sock.settimeout(seconds)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let reads in the block give what is there, without waiting."""
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


class _Head:
    """The lines of an answer's head, and whether they ended as a head ends.

    Args:
        file: where the answer comes from.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.file = file
        self.close = file.close
        self.is_whole = False

    def readline(self, limit: int = -1) -> bytes:
        line = self.file.readline(limit)
        self.is_whole = line in (b"\r\n", b"\n")
        return line


class _TimedResponse(HTTPResponse):
    """An answer whose head, and each piece of whose body with what frames it, must come in the socket's time-out.

    The library's own time-out starts anew with each byte, and it reads interim answers and trailers without end.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.has_more = False
        self._paced = _Paced(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._paced)

    def begin(self) -> None:
        head = _Head(self.fp)
        self.fp = head  # type: ignore[assignment]  # all that is asked of it here are lines
        try:
            with self._paced.together():
                super().begin()
        finally:
            if self.fp is not None:
                self.fp = head.file
        # The library takes the end of the connection for the end of the headers, and their lack for an empty body.
        if not head.is_whole:
            raise HTTPException("the answer broke off in its headers")

    def read1(self, n: int = -1) -> bytes:
        with self._paced.together():
            return super().read1(n)

    def _close_conn(self) -> None:
        # The library comes here when it has read a body to its end, and drops what stands behind it.
        if self.length == 0:
            with self._paced.at_once(), suppress(OSError, ValueError):
                self.has_more = bool(self.fp.peek(1))
        super()._close_conn()  # type: ignore[misc]  # typeshed does not list it


class _InTime(HTTPConnection):
    """A connection that is made, and written to, within its time-out and the time limit of the call.

    The library's time-out starts anew with each address of a host, knows nothing of its name server, and under TLS
    starts anew with each record that is sent.
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
            # urllib3 refuses some headers after the standard library has handed the socket over to the response.
            if self._response is not None:
                self._response.close()
            raise
        finally:
            self._response = None

    def _new_conn(self) -> socket.socket:
        deadline = time.monotonic() + self._allowed
        try:
            addresses = _addresses(self._dns_host, self.port, self._allowed)
            return _connect(addresses, deadline, self.source_address, self.socket_options)
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, f"no connection to {self.host} in its time") from exc
        except OSError as exc:
            raise NewConnectionError(self, f"no connection: {exc}") from exc

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        whole = memoryview(data)
        for start in range(0, len(whole), self._piece_bytes):
            if start and current_deadline().seconds_left <= 0:
                raise TooSlowError("it was taken too slowly")
            self.sock.settimeout(self._allowed)
            super().send(whole[start : start + self._piece_bytes])

    @property
    def _allowed(self) -> float:
        """Seconds for the next thing to do."""
        seconds = self.timeout if isinstance(self.timeout, (int, float)) else inf
        # No socket takes an infinite time, and none needs more than a day.
        return max(min(float(seconds), current_deadline().seconds_left, 86_400.0), _LEAST_SECONDS)


class _Connection(_InTime):
    pass


class _TlsConnection(_InTime, HTTPSConnection):
    _piece_bytes = 16 * 1024  # one record


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _addresses(host: str, port: int, seconds: float) -> list[Any]:
    """Return what ``getaddrinfo`` says of a host; it takes no time-out itself, and a name server may stay silent.

    Raises:
        TimeoutError: nothing in time.
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
        raise TimeoutError(f"no address of {host} in its time") from None
    if isinstance(found, Exception):
        raise found
    return found


def _connect(addresses: list[Any], deadline: float, source: Any, options: Any) -> socket.socket:
    """Return a socket that is connected to the first address that takes it; each has its share of the time."""
    error: OSError = OSError("the host has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options or ():
                sock.setsockopt(*option)
            share = (deadline - time.monotonic()) / (len(addresses) - number)
            sock.settimeout(max(share, _LEAST_SECONDS))
            if source:
                sock.bind(source)
            sock.connect(address)
            sock.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
        except OSError as exc:
            error = exc
            sock.close()
        else:
            return sock
    raise error


POOLS = {"http": _Pool, "https": _TlsPool}
"""Connection pools by scheme, for ``PoolManager.pool_classes_by_scheme``."""


def has_more(raw: Any) -> bool:
    """Tell whether bytes came behind the body of an answer that was read to its end.

    Args:
        raw: the answer as urllib3 has it.
    """
    return bool(getattr(getattr(raw, "_original_response", None), "has_more", False))


def root_cause(error: BaseException) -> BaseException:
    """Return what lies below the layers that the HTTP libraries put around an error."""
    seen: set[int] = set()
    below: BaseException | None = error
    while below is not None:
        error = below
        seen.add(id(error))
        inner = [getattr(error, "reason", None), error.__cause__, error.__context__, *error.args]
        below = next((one for one in inner if isinstance(one, BaseException) and id(one) not in seen), None)
    return error
