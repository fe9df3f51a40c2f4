"""What a request to the lifecycle API asks for: its body, its query, and the page of a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bottle

from pytest_opensandbox.embedded.validation import integer, parse_json, reject

MAX_NUMBER = 10**9

_MAX_PAGE_SIZE = 200
_FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


def body() -> dict[str, Any]:
    """Return the request's JSON object.

    Raises:
        RefusedError: there is none.
    """
    return parse_json(bottle.request.body.read())


def optional_body() -> dict[str, Any]:
    """Return the request's JSON object, an empty one where there is no body or a null.

    Raises:
        RefusedError: there is something else.
    """
    raw = bottle.request.body.read()
    return {} if raw.strip() in (b"", b"null") else parse_json(raw)


def number(name: str, default: int, *, at_most: int) -> int:
    """Return a query parameter that is a whole number from 1 on.

    Raises:
        RefusedError: it is something else.
    """
    value = bottle.request.query.getunicode(name)
    return default if value is None else integer(value, ["query", name], at_least=1, at_most=at_most)


def flag(name: str) -> bool:
    """Return a query parameter that is yes or no, no by default.

    Raises:
        RefusedError: it is something else.
    """
    value = bottle.request.query.getunicode(name, "false")
    if value.lower() not in _FLAGS:
        reject("bool_parsing", ["query", name], "Input should be a valid boolean, unable to interpret input", value)
    return _FLAGS[value.lower()]


class Page:
    """The page of a listing that a request asks for.

    Raises:
        RefusedError: its number or its size is out of range.
    """

    def __init__(self) -> None:
        self._page = number("page", 1, at_most=MAX_NUMBER)
        self._size = number("pageSize", 20, at_most=_MAX_PAGE_SIZE)

    def of(self, items: Sequence[Any]) -> Mapping[str, object]:
        """Return the listing: the page's items, described, and which page it is."""
        total_pages = -(-len(items) // self._size)
        return {
            "items": [item.describe() for item in items[(self._page - 1) * self._size : self._page * self._size]],
            "pagination": {
                "page": self._page,
                "pageSize": self._size,
                "totalItems": len(items),
                "totalPages": total_pages,
                "hasNextPage": self._page < total_pages,
            },
        }
