"""A response whose body is read on demand, within limits.

Three bytes of ``[],`` become 64 of memory, and a thousand brackets a deep recursion. So JSON is counted before it is
read; text is its own size.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import requests

from pytest_opensandbox.errors import ProtocolError, TransportError
from pytest_opensandbox.transport.retry import current_deadline
from pytest_opensandbox.transport.sockets import FAILURES, TooSlowError, has_more

MAX_BODY_BYTES = 1024 * 1024
"""Most that is read of a body that is no file, no stream of events, and no listing."""
MAX_VALUES = 10_000
"""Most values of an answer: objects, lists, and what is in them."""
MAX_DEPTH = 100
"""Most lists and objects inside each other."""

_MOST_DIGITS = 400
_READ_BYTES = 65_536
_TEXT = re.compile(rb'"[^"]*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Response:
    """A response whose body is still on its way; as a context manager it closes its connection at the end.

    Args:
        response: the response as the HTTP library has it, its body unread.
        as_error: makes an error of what the library raises; takes the seconds that were waited for a byte, too.
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
        """Bytes of the body that ``read`` has taken."""
        self._max_seconds = max_seconds

    @property
    def has_more(self) -> bool:
        """Whether more bytes have come than the body has, once it was read to its end."""
        return has_more(self._response.raw)

    @property
    def length(self) -> int | None:
        """What ``Content-Length`` promises, bytes; None where it is missing or no number."""
        text = self.headers.get("Content-Length") or ""
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def is_framed(self) -> bool:
        """Whether the end of the body is told apart from the end of the connection."""
        return self.length is not None or "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()

    def read_some(self, seconds: float | None = None) -> bytes:
        """Return the next bytes of the body, however few; b"" at its end.

        Args:
            seconds: how long to wait for them; None as for the request.

        Raises:
            TransportError: the connection broke, was silent for too long, or ended before its time.
        """
        # ``iter_content`` would wait until its buffer is full.
        raw, left = self._response.raw, current_deadline().seconds_left
        silence = min(self._silence_seconds if seconds is None else seconds, left)
        try:
            # A peer that speaks HTTP/1.0 takes the socket out of reach; then the request's own time-out stays.
            if sock := getattr(raw.connection, "sock", None):
                sock.settimeout(max(silence, 0.001))
            if left <= 0:
                raise TooSlowError("it came too slowly")
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
        """Return the whole body and give the connection back.

        Args:
            max_bytes: most that is taken.
            max_seconds: how long it may take; default as for the request, at most 300.

        Raises:
            ProtocolError: longer than ``max_bytes``, or not complete after ``max_seconds``.
            TransportError: it broke off.
        """
        body = bytearray()
        max_seconds = self._max_seconds if max_seconds is None else max_seconds
        deadline = time.monotonic() + max_seconds
        with self:
            for piece in self.chunks():
                body += piece
                if len(body) > max_bytes:
                    raise ProtocolError(f"an answer has more than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise ProtocolError(f"an answer is not complete after {max_seconds:g} s")
        self.received = len(body)
        return bytes(body)

    def json(self, *, needed: bool = False, max_bytes: int = MAX_BODY_BYTES, max_values: int = MAX_VALUES) -> Any:
        """Return the body as JSON, None for an empty one.

        Args:
            needed: whether an empty one is refused.
            max_bytes: most that is taken.
            max_values: most objects, lists and members of them: a few bytes become many in memory.

        Raises:
            ProtocolError: no JSON, or too much of it.
            TransportError: it broke off.
        """
        body = self.read(max_bytes=max_bytes)
        try:
            return read_json(body, max_values=max_values) if needed or body.strip() else None
        except ValueError as exc:
            shown = body[:200].decode("utf-8", "replace")
            limit = f" and has {exc}" if isinstance(exc, JsonLimitError) else ""
            raise ProtocolError(f"an answer must be JSON, this one begins with {shown!r}{limit}") from None

    def close(self) -> None:
        """Let go of the connection, without reading the rest."""
        self._response.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JsonLimitError(ValueError):
    """A JSON text would become more than its caller has allowed."""


def read_json(body: bytes, *, max_values: int = MAX_VALUES, errors: str = "strict") -> Any:
    """Return what a JSON text stands for.

    Args:
        body: the text, as long as its caller allows.
        max_values: most objects, lists and members of them.
        errors: what becomes of bytes that are not UTF-8, as for ``bytes.decode``.

    Raises:
        JsonLimitError: more values, deeper than ``MAX_DEPTH``, or a number with more than 400 digits.
        ValueError: no JSON.
    """
    # What is in a text counts here too, so that this may be wrong in one direction only.
    if _count(body) > max_values or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_shape(body, max_values)
    return _DECODER.decode(body.decode("utf-8", errors))


def _check_shape(body: bytes, max_values: int) -> None:
    """Count values and depth outside of texts, without making any of them."""
    # Without what is escaped, each quotation mark begins or ends a text: a value, or the name of one.
    body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if body.count(b'"') > 4 * max_values:
        raise JsonLimitError(f"more than {max_values:,} values")
    body = _TEXT.sub(b"", body)
    if _count(body) > max_values:
        raise JsonLimitError(f"more than {max_values:,} values")
    depth = 0
    for bracket in body.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise JsonLimitError(f"more than {MAX_DEPTH} lists and objects inside each other")


def _count(body: bytes) -> int:
    """Return how many values there are: each but the first stands behind one of these."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _integer(text: str) -> int:
    # Python itself takes time that grows with the square of the digits, unless its own limit is on.
    if len(text) > _MOST_DIGITS:
        raise JsonLimitError(f"a number with more than {_MOST_DIGITS} digits")
    return int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)
