"""HTTP requests and responses as handlers see them, and the router that brings them together."""

from __future__ import annotations

import codecs
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl

T = TypeVar("T")
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
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
"""Reason phrases of the statuses that the agent sends."""
BAD_BODY, FAILED = "INVALID_REQUEST_BODY", "RUNTIME_ERROR"
"""Error codes of ExecD."""

_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_NUMBER = re.compile(r"[+-]?[0-9]+")
_INT64 = range(-(2**63), 2**63)
_TYPE_NAMES = {str: "a string", bool: "a boolean", int: "an integer", list: "a list", dict: "an object"}


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
        """Return the response for this error."""
        return Response(self.body(), self.status, {"Content-Type": JSON_TYPE})


class BadBodyError(ValueError):
    """A body that is not the JSON that the handler needs."""


class Response:
    """One response; by default 200 with neither body nor content type, which is what a write operation answers.

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


def json_response(value: Any) -> Response:
    """Return 200 with a JSON body."""
    return Response(encode(value), 200, {"Content-Type": JSON_TYPE})


def stream(pieces: Iterable[bytes]) -> Response:
    """Return 200 with a body that is sent piece by piece."""
    return Response(pieces, 200, STREAM_HEADERS)


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

    def required(self, name: str) -> str:
        """Return a query parameter that must be there.

        Raises:
            RefusedError: it is missing or empty.
        """
        value = self.query(name)
        if not value:
            raise RefusedError(400, "MISSING_QUERY", f"missing query parameter '{name}'")
        return value

    def number(self, name: str) -> int | None:
        """Return a query parameter as an integer, None when it is missing or not one."""
        text = self.query(name)
        return int(text) if _NUMBER.fullmatch(text) else None

    def integer(self, name: str, *, at_least: int) -> int | None:
        """Return a query parameter that must be such an integer, None when it is missing or empty.

        Raises:
            RefusedError: it is something else.
        """
        number = self.number(name)
        if self.query(name) and (number is None or number < at_least):
            raise RefusedError(400, BAD_BODY, f"invalid query parameter '{name}': {self.query(name)}")
        return number

    def header(self, name: str) -> str:
        """Return a request header, empty when there is none."""
        return str(self.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))

    @property
    def input(self) -> BinaryIO:
        """The request body; waitress has received all of it, in memory or in a file, so it can be read twice."""
        stream: BinaryIO = self.environ["wsgi.input"]
        return stream

    @property
    def is_disconnected(self) -> Callable[[], bool]:
        """A function that says whether the client has closed the connection."""
        probe: Callable[[], bool] = self.environ["waitress.client_disconnected"]
        return probe

    def read_json(self, convert: Callable[[Any], T]) -> T:
        """Return what ``convert`` makes of the JSON body.

        Args:
            convert: takes the parsed body; raises BadBodyError when it is not what it should be.

        Raises:
            RefusedError: 400, the body is not JSON or not what it should be.
        """
        try:
            return convert(parse(self.input.read()))
        except BadBodyError as exc:
            raise RefusedError(400, BAD_BODY, f"invalid body: {exc}") from exc


class JsonObject:
    """A JSON object whose fields are read with the types that they must have; null is the same as missing.

    Args:
        value: the parsed JSON.

    Raises:
        BadBodyError: it is no object; so does every method for a field of another type.
    """

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict | None):
            raise BadBodyError("an object is expected")
        self._values = value or {}

    def text(self, name: str) -> str:
        """Return a string, empty when it is missing."""
        return self._typed(name, str) or ""

    def flag(self, name: str) -> bool:
        """Return a boolean, false when it is missing."""
        return self._typed(name, bool) or False

    def number(self, name: str, allowed: range = _INT64) -> int | None:
        """Return an integer, None when it is missing."""
        value = self._typed(name, int)
        if value is not None and value not in allowed:
            raise BadBodyError(f"{name}: {value} is out of range")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings, empty when it is missing."""
        values = self._typed(name, list) or []
        if not all(isinstance(value, str) for value in values):
            raise BadBodyError(f"{name}: a list of strings is expected")
        return values

    def mapping(self, name: str) -> dict[str, str]:
        """Return a map of strings, empty when it is missing; a null in it counts as an empty string."""
        values = self._typed(name, dict) or {}
        if not all(isinstance(value, str | None) for value in values.values()):
            raise BadBodyError(f"{name}: an object of strings is expected")
        return {key: value or "" for key, value in values.items()}

    def _typed(self, name: str, wanted: type[T]) -> T | None:
        value = self._values.get(name)
        if value is None or (isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)):
            return value
        raise BadBodyError(f"{name}: {_TYPE_NAMES[wanted]} is expected")


def parse(raw: bytes) -> Any:
    """Return the first JSON value of a body; what follows it is ignored, as in ExecD.

    Raises:
        BadBodyError: there is none.
    """
    text = raw.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as exc:
        raise BadBodyError(f"no JSON: {exc}") from exc


def encode(value: Any) -> bytes:
    """Return JSON as Go's encoder writes it: no spaces, non-ASCII as it is, ``<``, ``>`` and ``&`` escaped."""
    return escape(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode("utf-8", "one-for-each")


def escape(text: str) -> str:
    """Escape in finished JSON the further characters that Go escapes; all of them can only stand inside strings."""
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return text


def decode(line: bytes) -> str:
    """Return text from UTF-8, with one U+FFFD for each byte that is not part of a character."""
    return line.decode("utf-8", "one-for-each")


def timestamp(nanoseconds: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC, without trailing zeros in the fraction."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09}".rstrip("0").rstrip(".") + "Z"


def reason(error: OSError) -> str:
    """Return why a system call failed, in lower case as ExecD does, after the name of the file that it was about."""
    text = error.strerror or str(error)
    text = text[:1].lower() + text[1:]
    return text if error.filename is None else f"{error.filename}: {text}"


@contextmanager
def missing_file_fails() -> Iterator[None]:
    """Make a missing file an error 500 for an operation that needs none; elsewhere it is a 404.

    Raises:
        RefusedError: a file was missing.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise RefusedError(500, FAILED, reason(exc)) from exc


class Router:
    """WSGI application that gives each request to its handler, and turns what the handler raises into a response.

    A missing file becomes a 404 and every other OSError a 500. No handler is given a HEAD request.

    Args:
        routes: method, path and handler each. A segment ``*`` of a path stands for any segment, and is given to the
            handler after the request.
    """

    def __init__(self, routes: Iterable[tuple[str, str, Handler]]) -> None:
        self._routes = [(method, path.split("/"), handler) for method, path, handler in routes]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as a WSGI application."""
        body = self._answer(environ).send(start_response)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

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
    except FileNotFoundError as exc:
        return RefusedError(404, "FILE_NOT_FOUND", reason(exc)).response()
    except OSError as exc:
        return RefusedError(500, FAILED, reason(exc)).response()
    except Exception as exc:  # noqa: BLE001 - one request must not cost the sandbox
        traceback.print_exc(file=sys.stderr)
        return RefusedError(500, FAILED, f"the agent failed: {exc!r}").response()


def _one_for_each(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\ufffd", error.start + 1
    assert isinstance(error, UnicodeEncodeError)
    return "\ufffd".encode(), error.start + 1


codecs.register_error("one-for-each", _one_for_each)
