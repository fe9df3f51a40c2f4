"""The router of the lifecycle API, and the responses of its handlers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pytest_opensandbox.embedded.api.request import Request

_PARAMETER = re.compile(r"<(\w+)>")


class Response(NamedTuple):
    """A complete response; without a body it has no content type."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[..., Response]
Route = tuple[str, str, Handler]
"""Method, path with ``<parameters>``, and the function that gets the request and the parameters."""


class Router:
    """Finds the handler for a request.

    Args:
        routes: all routes, without ``/v1``.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = [
            (method, re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", path)), handler) for method, path, handler in routes
        ]

    def has(self, path: str) -> bool:
        """Say whether there is a route with this path, for any method."""
        return any(pattern.fullmatch(path) for _, pattern, _ in self._routes)

    def respond(self, request: Request) -> Response:
        """Return the response of the handler, or the one for a request without a route.

        Raises:
            RefusedError: the handler refuses.
        """
        found = {
            method: (handler, match.groupdict())
            for method, pattern, handler in self._routes
            if (match := pattern.fullmatch(request.path))
        }
        if not found:
            return json_response({"detail": "Not Found"}, 404)
        if request.method not in found:
            return json_response({"detail": "Method Not Allowed"}, 405, Allow=", ".join(sorted(found)))
        handler, parameters = found[request.method]
        return handler(request, **parameters)


def json_response(value: Mapping[str, Any], status: int = 200, **headers: str) -> Response:
    """Return a response with a JSON object.

    Args:
        value: the object.
        status: HTTP status.
        headers: further headers of one word.
    """
    return Response(status, _to_json(value), (("Content-Type", "application/json"), *headers.items()))


def _to_json(value: Mapping[str, Any]) -> bytes:
    """Return an object as JSON in UTF-8."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):  # the input in a refusal is not a number, or is nested too deeply
        return _to_json({"detail": [{**error, "input": None} for error in value["detail"]]})
    # A lone surrogate, which JSON may hold, becomes its escape again.
    return text.encode(errors="backslashreplace")
