"""Below the HTTP library: answers that must come in their time, however slowly they drip, and causes of errors."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class _Paced(io.RawIOBase):
    """The incoming side of a socket, with a time for several reads together where one is set."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("it came too slowly")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all reads in the block take as long as the socket's time-out allows for one."""
        seconds = self._sock.gettimeout()
        self._deadline = None if seconds is None else time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None
            with suppress(OSError):  # it may have been closed
                self._sock.settimeout(seconds)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let reads in the block give what is there, without waiting."""
        seconds, deadline = self._sock.gettimeout(), self._deadline
        self._deadline = None
        try:
            with suppress(OSError):
                self._sock.settimeout(0)
            yield
        finally:
            self._deadline = deadline
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


class _Response(HTTPResponse):
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


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


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
