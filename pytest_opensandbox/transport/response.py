"""A response whose body is read on demand, within limits.

A sandbox can send JSON that is small on the wire and large in memory: three bytes of ``[],`` become 64, and a thousand
brackets a deep recursion. So values and depth are counted before JSON is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import requests

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ProtocolError, TransportError
from pytest_opensandbox.transport.retry import current_deadline
from pytest_opensandbox.transport.sockets import FAILURES, TooSlowError, has_more

MAX_BODY_BYTES = 1024 * 1024
"""Most bytes of a body that is not a file, a stream of events or a listing."""
MAX_VALUES = 10_000
"""Most values in a response: objects, lists and the values in them."""
MAX_DEPTH = 100
"""Deepest nesting of lists and objects."""

_MOST_DIGITS = 400
_READ_BYTES = 65_536
_STRING = re.compile(rb'"[^"]*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Response:
    """A response whose body is not read yet; as a context manager it closes itself.

    Args:
        response: the response as the HTTP library has it, its body unread.
        as_error: converts an error of the library; its second argument is the time limit of the read.
        silence_seconds: longest time between two bytes.
        max_seconds: limit for a body that is read as a whole.
    """

    def __init__(
        self,
        response: requests.Response,
        *,
        as_error: Callable[[Exception, float], TransportError],
        silence_seconds: float,
        max_seconds: float,
    ) -> None:
        self.status = response.status_code
        """HTTP status, 200 … 599; ``Transport.request`` returns those up to 299 only."""
        self.headers: Mapping[str, str] = response.headers
        """Headers; names ignore case."""
        self._response = response
        self._as_error = as_error
        self._silence_seconds = silence_seconds
        self.received = 0
        """Bytes of the body, once ``read`` has returned it."""
        self._max_seconds = max_seconds

    @property
    def has_more(self) -> bool:
        """Whether bytes follow the body, once it was read to its end."""
        return has_more(self._response.raw)

    @property
    def length(self) -> int | None:
        """Bytes by ``Content-Length``; None where the header is missing or not a number."""
        text = self.headers.get("Content-Length") or ""
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def date(self) -> float | None:
        """The header ``Date``; seconds since 1970, None where it is missing or invalid."""
        return read_date(self.headers.get("Date"))

    @property
    def is_framed(self) -> bool:
        """Whether the body has an end of its own, apart from the end of the connection."""
        return self.length is not None or "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()

    def read_some(self, seconds: float | None = None) -> bytes:
        """Return the next bytes of the body, however few; b"" at its end.

        Args:
            seconds: how long to wait for them; None as for the request.

        Raises:
            TransportError: the connection broke, was silent for too long, or ended before its time.
        """
        # Not iter_content, which waits until its buffer is full.
        raw, left = self._response.raw, current_deadline().seconds_left
        silence = min(self._silence_seconds if seconds is None else seconds, left)
        try:
            # With HTTP/1.0 the library hides the socket; then the time limit of the request stays.
            if sock := getattr(raw.connection, "sock", None):
                sock.settimeout(max(silence, 0.001))
            if left <= 0:
                raise TooSlowError("the response came too slowly")
            piece: bytes = raw.read1(_READ_BYTES)
        except FAILURES as exc:
            # From None: the frames below hold the request with its key, and pytest -l would print them.
            raise self._as_error(exc, silence) from None
        return piece

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives; raises as ``read_some``."""
        while piece := self.read_some():
            yield piece

    def read(self, *, max_bytes: int = MAX_BODY_BYTES, max_seconds: float | None = None) -> bytes:
        """Return the whole body and release the connection.

        Args:
            max_bytes: longest body.
            max_seconds: time limit; default ten times the silence of the request, at most ``Timeouts.body_seconds``.

        Raises:
            ProtocolError: longer than ``max_bytes``, or not complete after ``max_seconds``.
            TransportError: the connection broke.
        """
        body = bytearray()
        max_seconds = self._max_seconds if max_seconds is None else max_seconds
        deadline = monotonic() + max_seconds
        with self:
            for piece in self.chunks():
                body += piece
                if len(body) > max_bytes:
                    raise ProtocolError(f"a response has more than {max_bytes:,} bytes")
                if monotonic() > deadline:
                    raise ProtocolError(f"a response is not complete after {max_seconds:g} s")
        self.received = len(body)
        return bytes(body)

    def json(self, *, needed: bool = False, max_bytes: int = MAX_BODY_BYTES, max_values: int = MAX_VALUES) -> Any:
        """Return the body as JSON, None for an empty one.

        Args:
            needed: whether an empty body is refused.
            max_bytes: longest body.
            max_values: most objects, lists and values in them.

        Raises:
            ProtocolError: not JSON, or above a limit.
            TransportError: the connection broke.
        """
        body = self.read(max_bytes=max_bytes)
        try:
            return read_json(body, max_values=max_values) if needed or body.strip() else None
        except ValueError as exc:
            shown = body[:200].decode("utf-8", "replace")
            limit = f" and has {exc}" if isinstance(exc, JsonLimitError) else ""
            raise ProtocolError(f"a response must be JSON, this one begins with {shown!r}{limit}") from None

    def close(self) -> None:
        """Close the connection, without reading the rest of the body."""
        self._response.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_date(value: str | None) -> float | None:
    """Read an HTTP date.

    Returns:
        Seconds since 1970, or None for an invalid date.
    """
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
    except (TypeError, ValueError, OverflowError):
        return None


class JsonLimitError(ValueError):
    """A JSON text is above a limit."""


def read_json(body: bytes, *, max_values: int = MAX_VALUES, errors: str = "strict") -> Any:
    """Return the value of a JSON text.

    Args:
        body: the text.
        max_values: most objects, lists and values in them.
        errors: how to decode bytes that are not UTF-8, as for ``bytes.decode``.

    Raises:
        JsonLimitError: more values, nested deeper than ``MAX_DEPTH``, or a number with more than 400 digits.
        ValueError: not JSON.
    """
    # This counts characters inside strings, too. So the count can be too high, never too low.
    if _count(body) > max_values or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_shape(body, max_values)
    return _DECODER.decode(body.decode("utf-8", errors))


def _check_shape(body: bytes, max_values: int) -> None:
    """Count values and depth outside of strings, without parsing."""
    # Without escaped characters, each quotation mark begins or ends a string: a value or a name.
    body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if body.count(b'"') > 4 * max_values:
        raise JsonLimitError(f"more than {max_values:,} values")
    body = _STRING.sub(b"", body)
    if _count(body) > max_values:
        raise JsonLimitError(f"more than {max_values:,} values")
    depth = 0
    for bracket in body.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise JsonLimitError(f"lists and objects nested more than {MAX_DEPTH} deep")


def _count(body: bytes) -> int:
    """Return the number of values: each but the first follows one of these characters."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _integer(text: str) -> int:
    # Python needs time that grows with the square of the digits, unless its own limit is on.
    if len(text) > _MOST_DIGITS:
        raise JsonLimitError(f"a number with more than {_MOST_DIGITS} digits")
    return int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)
