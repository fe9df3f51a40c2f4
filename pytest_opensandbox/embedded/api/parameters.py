"""The parameters of a request: its body, its query, and the page of a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import bottle

from pytest_opensandbox.embedded.api.validation import boolean, integer, parse_json

MAX_NUMBER = 10**9

_MAX_PAGE_SIZE = 200


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


def texts(name: str) -> list[str]:
    """Return all values of a query parameter; invalid UTF-8 becomes U+FFFD."""
    query = parse_qsl(bottle.request.query_string, keep_blank_values=True)
    return [value for key, value in query if key == name]


def last(name: str) -> str | None:
    """Return the last value of a query parameter, None without one."""
    return next(reversed(texts(name)), None)


def number(name: str, default: int, *, at_most: int) -> int:
    """Return a query parameter that is a whole number from 1 on.

    Raises:
        RefusedError: it is something else.
    """
    value = last(name)
    return default if value is None else integer(value, ["query", name], at_least=1, at_most=at_most)


def flag(name: str) -> bool:
    """Return a boolean query parameter, False by default.

    Raises:
        RefusedError: it is something else.
    """
    value = last(name)
    return value is not None and boolean(value, ["query", name])


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
