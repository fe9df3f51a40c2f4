"""JSON from a server or a sandbox, read only where what it would become in memory is bounded.

Three bytes of ``[],`` become 64 of memory, and a thousand brackets a deep recursion; text is its own size.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_VALUES = 10_000
"""Most values of an answer: objects, lists, and what is in them."""
MAX_DEPTH = 100
"""Most lists and objects inside each other."""

_MOST_DIGITS = 400
_TEXT = re.compile(rb'"[^"]*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


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
