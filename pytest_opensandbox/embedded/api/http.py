"""The HTTP server: dispatch to the lifecycle API or the proxy, and the form of every response."""

from __future__ import annotations

import json
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import bottle
import waitress

from pytest_opensandbox.embedded.api.authentication import Authenticator, connection_class
from pytest_opensandbox.embedded.api.lifecycle_api import routes
from pytest_opensandbox.embedded.api.reverse_proxy import forward, is_proxied
from pytest_opensandbox.embedded.errors import RefusedError
from pytest_opensandbox.embedded.runtime.limits import raise_file_limit
from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

# A request through the proxy holds its thread while it streams, and a request to a paused sandbox until it goes on.
_THREADS, _PROXY_THREADS = 64, 56
_BODY_BYTES = 1 << 40
_REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed"}

StartResponse = Callable[..., Any]


def serve(listener: socket.socket, registry: SandboxRegistry, api_key: str) -> None:
    """Start to answer requests in a thread, until the process ends.

    Args:
        listener: bound to a loopback port.
        registry: the sandboxes.
        api_key: what every request but health and version must carry.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)
    authenticator = Authenticator(api_key, registry.find_secret)
    server = waitress.create_server(
        Application(registry, authenticator),
        sockets=[listener],
        threads=_THREADS,
        connection_limit=raise_file_limit() // 2,
        max_request_body_size=_BODY_BYTES,
        ident=None,
        asyncore_use_poll=True,
        log_socket_errors=False,  # a closed connection is normal
    )
    server.channel_class = connection_class(authenticator)
    threading.Thread(target=server.run, name="http", daemon=True).start()


class Application:
    """The WSGI application: it authenticates, dispatches, and gives every response a request id."""

    def __init__(self, registry: SandboxRegistry, authenticator: Authenticator) -> None:
        self._registry = registry
        self._callers = authenticator
        self._api = _lifecycle_app(registry)
        self._proxy_threads = threading.BoundedSemaphore(_PROXY_THREADS)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        start = _with_request_id(environ, start_response)
        try:
            self._callers.check(environ)
            if is_proxied(environ["PATH_INFO"]):
                return self._forward(environ, start)
            if environ["REQUEST_METHOD"] == "HEAD":  # the router would take it for a GET
                raise RefusedError(405, {"detail": "Method Not Allowed"})
            _strip_version(environ)
            if target := _without_slash(self._api, environ):
                start("307 Temporary Redirect", [("Location", target), ("Content-Length", "0")])
                return []
            answer: Iterable[bytes] = self._api(environ, start)
        except RefusedError as refusal:
            body = _send_refusal(refusal, start)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        return answer

    def _forward(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer through the proxy; keep threads free for the lifecycle API, which ends hanging sandboxes."""
        if not self._proxy_threads.acquire(blocking=False):
            message = f"{_PROXY_THREADS} requests to sandboxes are under way: ask again later, or directly at its port."
            raise RefusedError(503, {"code": "SANDBOX::TOO_MANY_REQUESTS", "message": message})
        try:
            body = forward(self._registry, environ, start)
        except BaseException:
            self._proxy_threads.release()
            raise
        return _ProxiedBody(body, self._proxy_threads.release)


class _ProxiedBody:
    """A response body, and a callback for its end.

    Args:
        body: of a response from the proxy.
        on_close: called once.
    """

    def __init__(self, body: Iterable[bytes], on_close: Callable[[], object]) -> None:
        self._body = body
        self._on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the body; waitress calls this once, however the sending ends."""
        try:
            self._body.close()  # type: ignore[attr-defined]  # the proxy's have it
        finally:
            self._on_close()


def _lifecycle_app(registry: SandboxRegistry) -> Any:
    """Return the router over the lifecycle API."""
    app = bottle.Bottle()
    app.uninstall(bottle.JSONPlugin)  # the handlers write their own
    for method, path, handler in routes(registry, _own_version()):
        app.route(path, method, _as_json(handler))
    app.default_error_handler = _shape_error
    bottle.response.default_content_type = ""  # an answer without a body has no type; see _with_request_id
    return app


def _as_json(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that writes the value or the refusal as JSON."""

    def answer(**arguments: object) -> Any:
        try:
            value = handler(**arguments)
        except RefusedError as refusal:
            bottle.response.status, value = refusal.status, refusal.body
        if not isinstance(value, Mapping):
            return value
        bottle.response.content_type = "application/json"
        return _json(value)

    return answer


def _shape_error(error: Any) -> bytes:
    """Return the body for a request without a route, and for an unexpected exception."""
    if error.status_code >= 500:
        error.content_type = "text/plain; charset=utf-8"
        return b"Internal Server Error"
    error.content_type = "application/json"
    return _json({"detail": _REASONS.get(error.status_code, "Bad Request")})


def _with_request_id(environ: Mapping[str, Any], start_response: StartResponse) -> StartResponse:
    """Return a ``start_response`` that adds a request id: the caller's, or a new one."""
    number = environ.get("HTTP_X_REQUEST_ID", "").strip() or uuid.uuid4().hex

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        kept = [(name, value) for name, value in headers if value and name.lower() != "x-request-id"]
        return start_response(status, [*kept, ("X-Request-ID", number)], exc_info)

    return start


def _send_refusal(refusal: RefusedError, start: StartResponse) -> bytes:
    """Send the head of a refusal and return its body."""
    body = _json(refusal.body)
    status = f"{refusal.status} {_REASONS.get(refusal.status, 'Refused')}"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return body


def _strip_version(environ: dict[str, Any]) -> None:
    """Remove ``/v1`` from the path: every route exists with it and without it."""
    if environ["PATH_INFO"].startswith("/v1/"):
        environ["SCRIPT_NAME"] = "/v1"
        environ["PATH_INFO"] = environ["PATH_INFO"][len("/v1") :]


def _without_slash(api: bottle.Bottle, environ: Mapping[str, Any]) -> str:
    """Return the URL to redirect to if the path has a route only without its final slashes, else ""."""
    path = environ["PATH_INFO"].rstrip("/")
    if path == environ["PATH_INFO"] or not path:
        return ""
    try:
        api.match({**environ, "PATH_INFO": path})
    except bottle.HTTPError as error:
        if error.status_code != 405:  # another method has the route
            return ""
    target, mark, query = environ["REQUEST_URI"].partition("?")
    host = "" if "://" in target else f"http://{environ['HTTP_HOST']}"
    return f"{host}{target.rstrip('/')}{mark}{query}"


def _json(body: Mapping[str, Any]) -> bytes:
    # A lone surrogate, which JSON may hold, becomes its escape again.
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):  # the input in a refusal is not a number, or is nested too deeply
        return _json({"detail": [{**error, "input": None} for error in body["detail"]]})
    return text.encode(errors="backslashreplace")


def _own_version() -> str:
    try:
        return version("pytest-opensandbox")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
