"""A request to the lifecycle API: its path, its body, its query, and the page of a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from pytest_opensandbox.embedded.api.validation import boolean, integer, parse_json

MAX_NUMBER = 10**9

_MAX_PAGE_SIZE = 200
_VERSION_PATH = "/v1"


class Request:
    """A request, as waitress read it.

    Args:
        environ: the WSGI environment.

    Attributes:
        method: HTTP method.
        path: decoded path without ``/v1``: every route exists with it and without it.
        mount: ``/v1``, or "" for a path without it.
        host: value of the Host header.
    """

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.host: str = environ.get("HTTP_HOST", "")
        path: str = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        self.mount = _VERSION_PATH if path.startswith(f"{_VERSION_PATH}/") else ""
        self.path = path.removeprefix(self.mount)

    def body(self) -> dict[str, Any]:
        """Return the request's JSON object.

        Raises:
            RefusedError: there is none.
        """
        return parse_json(self._read())

    def optional_body(self) -> dict[str, Any]:
        """Return the request's JSON object, an empty one without a body or for null.

        Raises:
            RefusedError: there is something else.
        """
        raw = self._read()
        return {} if raw.strip() in (b"", b"null") else parse_json(raw)

    def texts(self, name: str) -> list[str]:
        """Return all values of a query parameter; invalid UTF-8 becomes U+FFFD."""
        query = parse_qsl(self._environ.get("QUERY_STRING", ""), keep_blank_values=True)
        return [value for key, value in query if key == name]

    def last(self, name: str) -> str | None:
        """Return the last value of a query parameter, None without one."""
        return next(reversed(self.texts(name)), None)

    def number(self, name: str, default: int, *, at_most: int) -> int:
        """Return a query parameter that is a whole number from 1 on.

        Raises:
            RefusedError: it is something else.
        """
        value = self.last(name)
        return default if value is None else integer(value, ["query", name], at_least=1, at_most=at_most)

    def flag(self, name: str) -> bool:
        """Return a boolean query parameter, False by default.

        Raises:
            RefusedError: it is something else.
        """
        value = self.last(name)
        return value is not None and boolean(value, ["query", name])

    def _read(self) -> bytes:
        raw: bytes = self._environ["wsgi.input"].read()
        return raw


class Page:
    """The page of a listing that a request asks for.

    Raises:
        RefusedError: its number or its size is out of range.
    """

    def __init__(self, request: Request) -> None:
        self._page = request.number("page", 1, at_most=MAX_NUMBER)
        self._size = request.number("pageSize", 20, at_most=_MAX_PAGE_SIZE)

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
