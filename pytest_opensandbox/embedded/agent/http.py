"""HTTP requests and responses as handlers see them, and the router that brings them together."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Handler = Callable[..., "Response"]

JSON_TYPE = "application/json; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
REASONS = {
    200: "OK",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
}
"""Reason phrases of the statuses that the agent sends."""

_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
T = TypeVar("T")
BAD_BODY = "INVALID_REQUEST_BODY"
_NUMBER = re.compile(r"[+-]?[0-9]+")
_INTEGERS = {"int": (-(2**63), 2**63), "int64": (-(2**63), 2**63), "uint32": (0, 2**32)}
_PARSER_TEXTS = (
    ("Expecting property name", "looking for beginning of object key string"),
    ("Expecting ':'", "after object key"),
    ("Expecting ','", "after object key:value pair"),
    ("Invalid control character", "in string literal"),
    ("Invalid \\escape", "in string escape code"),
)


class Response:
    """One response.

    Args:
        body: all of it, or its pieces; their length must stand in ``headers``, or the response is sent in chunks.
        status: a key of ``REASONS``.
        headers: its header fields.
    """

    def __init__(
        self, body: bytes | Iterable[bytes] = b"", status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Send the head and return the pieces of the body, as WSGI has it."""
        headers = dict(self.headers)
        if isinstance(self.body, bytes) and self.status != 304:  # which says nothing of a body
            headers.setdefault("Content-Length", str(len(self.body)))
        start_response(f"{self.status} {REASONS[self.status]}", list(headers.items()))
        return [self.body] if isinstance(self.body, bytes) else self.body


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

    def response(self) -> Response:
        """Return the answer for this error."""
        return Response(self.body(), self.status, {"Content-Type": JSON_TYPE})


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


def done() -> Response:
    """Return 200 with neither body nor content type: what a write operation answers."""
    return Response()


def json_answer(value: Any) -> Response:
    """Return 200 with a JSON body."""
    return Response(encode(value), 200, {"Content-Type": JSON_TYPE})


def stream(frames: Iterable[bytes]) -> Response:
    """Return 200 with a body that is sent frame by frame."""
    return Response(frames, 200, dict(STREAM_HEADERS))


def timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC, without trailing zeros in the fraction."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
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


class BadBodyError(ValueError):
    """A body that is not the JSON we need; the text is that of Go's decoder."""


class Request:
    """One request.

    Args:
        environ: the WSGI environment, from waitress.
    """

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self._query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="surrogateescape")

    def query(self, name: str) -> str:
        """Return the first query parameter of that name, empty when there is none."""
        return next(iter(self.queries(name)), "")

    def queries(self, name: str) -> list[str]:
        """Return all query parameters of that name."""
        return [value for key, value in self._query if key == name]

    def number(self, name: str) -> int | None:
        """Return a query parameter as an integer, None when it is missing or not one."""
        text = self.query(name)
        return int(text) if _NUMBER.fullmatch(text) else None

    def needed(self, name: str) -> str:
        """Return a query parameter that must be there.

        Raises:
            RefusedError: it is missing or empty.
        """
        value = self.query(name)
        if not value:
            raise RefusedError(400, "MISSING_QUERY", f"missing query parameter '{name}'")
        return value

    def header(self, name: str) -> str:
        """Return a request header, empty when there is none."""
        return str(self.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))

    @property
    def input(self) -> BinaryIO:
        """The request body; waitress has received all of it, in memory or in a file, so it can be read twice."""
        stream: BinaryIO = self.environ["wsgi.input"]
        return stream

    @property
    def is_gone(self) -> Callable[[], bool]:
        """Tells whether the client has closed the connection."""
        probe: Callable[[], bool] = self.environ["waitress.client_disconnected"]
        return probe

    def checked(self, check: Callable[[Any], T], prefix: str) -> T:
        """Return what ``check`` makes of the JSON body.

        Args:
            check: takes the parsed body; raises BadBodyError when it is not what it should be.
            prefix: what the error message begins with.

        Raises:
            RefusedError: 400, the body is not JSON or not what it should be.
        """
        try:
            return check(parse(self.input.read()))
        except BadBodyError as exc:
            raise RefusedError(400, BAD_BODY, f"{prefix}{exc}") from exc


class Fields:
    """A JSON object whose fields are read with the types that Go's decoder insists on."""

    def __init__(self, value: Any, model: str) -> None:
        if not isinstance(value, dict | None):
            raise BadBodyError(f"json: cannot unmarshal {_kind(value)} into Go value of type model.{model}")
        self._values = value or {}
        self._model = model

    def text(self, name: str) -> str:
        """Return a string, empty when it is missing."""
        return str(self._typed(name, str, "string") or "")

    def flag(self, name: str) -> bool:
        """Return a boolean, false when it is missing."""
        return bool(self._typed(name, bool, "bool"))

    def number(self, name: str, kind: str = "int64") -> int | None:
        """Return an integer, None when it is missing."""
        value = self._typed(name, int, kind)
        low, high = _INTEGERS[kind]
        if value is not None and not low <= value < high:
            raise self._mismatch(f"number {value}", name, kind)
        return value

    def texts(self, name: str) -> list[str] | None:
        """Return a list of strings, None when it is missing."""
        values = self._typed(name, list, "[]string")
        for value in values or []:
            if not isinstance(value, str):
                raise self._mismatch(_kind(value), name, "string")
        return values

    def mapping(self, name: str) -> dict[str, str]:
        """Return a map of strings, empty when it is missing; a null in it counts as an empty string."""
        values = self._typed(name, dict, "map[string]string") or {}
        for value in values.values():
            if not isinstance(value, str | None):
                raise self._mismatch(_kind(value), name, "string")
        return {key: value or "" for key, value in values.items()}

    def _typed(self, name: str, wanted: type[T], kind: str) -> T | None:
        value = self._values.get(name)
        if value is None or (isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)):
            return value
        raise self._mismatch(_kind(value), name, kind)

    def _mismatch(self, kind: str, name: str, wanted: str) -> BadBodyError:
        return BadBodyError(f"json: cannot unmarshal {kind} into Go struct field {self._model}.{name} of type {wanted}")


def parse(raw: bytes) -> Any:
    """Return the first JSON value of a body, as Go's decoder does; what follows it is ignored.

    Raises:
        BadBodyError: there is none; the text is Go's.
    """
    text = raw.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    if not text:
        raise BadBodyError("EOF")
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as exc:
        raise BadBodyError(_syntax_error(text, exc)) from exc


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].lstrip(" \t\r\n")
    if error.msg.startswith("Invalid \\escape"):
        rest = rest[1:]
    if error.msg.startswith("Unterminated") or any(word.startswith(rest) for word in ("true", "false", "null")):
        return "unexpected EOF"
    where = next((go for ours, go in _PARSER_TEXTS if error.msg.startswith(ours)), "looking for beginning of value")
    return f"invalid character {rest[0]!r} {where}"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return f"number {value}"
    kinds: dict[type, str] = {int: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


class Router:
    """Brings each request to its handler, and what goes wrong in there into a response.

    Args:
        routes: method, path and handler each. A segment ``*`` of a path stands for any segment, and is given to the
            handler after the request.
    """

    def __init__(self, routes: Iterable[tuple[str, str, Handler]]) -> None:
        self._routes = [(method, path.split("/"), handler) for method, path, handler in routes]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as a WSGI application."""
        response = self._answer(environ).send(start_response)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else response

    def _answer(self, environ: Environ) -> Response:
        segments = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace").split("/")
        for method, pattern, handler in self._routes:
            if method == environ["REQUEST_METHOD"] and _matches(pattern, segments):
                parameters = [segment for segment, wanted in zip(segments, pattern, strict=True) if wanted == "*"]
                return _call(handler, Request(environ), parameters)
        return Response(b"404 page not found", 404, {"Content-Type": "text/plain"})


def _matches(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return len(pattern) == len(segments) and all(
        wanted == segment or (wanted == "*" and segment) for wanted, segment in zip(pattern, segments, strict=True)
    )


def _call(handler: Handler, request: Request, parameters: Sequence[str]) -> Response:
    try:
        return handler(request, *parameters)
    except RefusedError as exc:
        return exc.response()
    except Exception as exc:  # noqa: BLE001 - one request must not cost the sandbox
        traceback.print_exc(file=sys.stderr)
        return RefusedError(500, "RUNTIME_ERROR", f"the agent failed: {exc!r}").response()
