"""What the agent answers: Go's way of writing JSON, error bodies with a code, and errors in Go's words."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from bottle import HTTPResponse

JSON_TYPE = "application/json; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
NO_TYPE = "-"
"""Stands for "no Content-Type at all"; bottle would add one of its own."""

_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


class RefusedError(Exception):
    """A request that ends in an error body.

    Attributes:
        status: the HTTP status.
        code: ExecD's error code; empty when the body has none.
        message: the text for the user; empty when the body has none.
    """

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> bytes:
        """Return the error as JSON; an empty message is left out."""
        return encode({"code": self.code, "message": self.message} if self.message else {"code": self.code})

    def response(self) -> HTTPResponse:
        """Return the answer for this error."""
        return HTTPResponse(self.body(), self.status, {"Content-Type": JSON_TYPE})


def encode(value: Any) -> bytes:
    """Return JSON as Go's encoder writes it: no spaces, non-ASCII as it is, ``<``, ``>`` and ``&`` escaped."""
    return escape(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode("utf-8", "one-for-each")


def escape(text: str) -> str:
    """Escape in finished JSON what Go escapes besides; such characters can only stand inside its strings."""
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return text


def decode(line: bytes) -> str:
    """Return text from UTF-8, with one U+FFFD for each byte that is not part of a character."""
    return line.decode("utf-8", "one-for-each")


def done() -> HTTPResponse:
    """Return 200 with neither body nor content type: what a write operation answers."""
    return HTTPResponse(b"", 200, {"Content-Type": NO_TYPE})


def json_answer(value: Any) -> HTTPResponse:
    """Return 200 with a JSON body."""
    return HTTPResponse(encode(value), 200, {"Content-Type": JSON_TYPE})


def stream(frames: Iterable[bytes]) -> HTTPResponse:
    """Return 200 with a body that is sent frame by frame."""
    return HTTPResponse(frames, 200, dict(STREAM_HEADERS))


def timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC, without trailing zeros in the fraction."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09}".rstrip("0").rstrip(".") + "Z"


def reason(error: OSError) -> str:
    """Return the system's text for an error in lower case, as Go prints it."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def failure(operation: str, error: OSError, path: str | None = None) -> str:
    """Return ``open /x: no such file or directory``; the path is the error's own unless given."""
    name = path if path is not None else os.fsdecode(error.filename or "")
    return f"{operation} {name}: {reason(error)}"


def invalid_field(model: str, name: str, rule: str) -> str:
    """Return the text for a field that breaks a rule of the model it belongs to."""
    return f"Key: '{model}.{name}' Error:Field validation for '{name}' failed on the '{rule}' tag"


def _one_for_each(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\ufffd", error.start + 1
    assert isinstance(error, UnicodeEncodeError)
    return "\ufffd".encode(), error.start + 1


codecs.register_error("one-for-each", _one_for_each)
