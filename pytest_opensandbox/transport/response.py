"""A response whose body is read on demand, within limits.

Three bytes of ``[],`` become 64 of memory, and a thousand brackets a deep recursion. So JSON is counted before it is
read; text is its own size.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from math import inf
from types import TracebackType
from typing import Any

from pytest_opensandbox.errors import ProtocolError

MAX_BODY_BYTES = 1024 * 1024
"""Most that is read of a body that is no file, no stream of events, and no listing."""
MAX_VALUES = 10_000
"""Most values of an answer: objects, lists, and what is in them."""
MAX_DEPTH = 100
"""Most lists and objects inside each other."""

_MOST_DIGITS = 400
_TEXT = re.compile(rb'"[^"]*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Response:
    """A response whose body is still on its way; as a context manager it closes its connection at the end.

    Args:
        status: HTTP status, 200 … 599; ``Transport.request`` returns those up to 299 only.
        headers: headers; names ignore case.
        read_some: returns the next bytes, however few, b"" at the end; takes the seconds that it may last, or None.
        close: lets go of the connection.
        has_more: tells whether bytes came behind the end of the body.
        max_seconds: limit for a body that is read as a whole; seconds.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        read_some: Callable[[float | None], bytes],
        close: Callable[[], None],
        has_more: Callable[[], bool] = lambda: False,
        max_seconds: float = inf,
    ) -> None:
        self.status = status
        """HTTP status, 200 … 599."""
        self.headers = headers
        """Headers; names ignore case."""
        self._read_some = read_some
        self._close = close
        self._has_more = has_more
        self.received = 0
        """Bytes of the body that ``read`` has taken."""
        self._max_seconds = max_seconds

    @property
    def has_more(self) -> bool:
        """Whether more bytes have come than the body has, once it was read to its end."""
        return self._has_more()

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
        return self._read_some(seconds)

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
        self._close()

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
