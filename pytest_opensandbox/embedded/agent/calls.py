"""One request as a handler sees it: its query, its headers, its JSON body checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl

from .answers import RefusedError

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


class BadBodyError(ValueError):
    """A body that is not the JSON we need; the text is that of Go's decoder."""


class Call:
    """One request.

    Args:
        environ: the WSGI environment, from waitress.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
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
