"""The HTTP server: dispatch to the lifecycle API or the proxy, and the form of every response."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.client import responses
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import waitress

from pytest_opensandbox.embedded.api.authentication import Authenticator, connection_class
from pytest_opensandbox.embedded.api.lifecycle_api import routes
from pytest_opensandbox.embedded.api.request import Request
from pytest_opensandbox.embedded.api.reverse_proxy import forward, is_proxied
from pytest_opensandbox.embedded.api.routing import Response, Router, json_response
from pytest_opensandbox.embedded.errors import RefusedError
from pytest_opensandbox.embedded.runtime.limits import raise_file_limit
from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

# A request through the proxy holds its thread while it streams, and a request to a paused sandbox until it goes on.
_THREADS, _PROXY_THREADS = 64, 56
_BODY_BYTES = 1 << 40
_NO_CONTENT = 204

StartResponse = Callable[..., Any]


def serve(listener: socket.socket, registry: SandboxRegistry, api_key: str) -> None:
    """Start to answer requests in a thread, until the process ends.

    Args:
        listener: bound to a loopback port.
        registry: the sandboxes.
        api_key: required of every request but health and version.
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
        self._authenticator = authenticator
        self._router = Router(routes(registry, _own_version()))
        self._proxy_threads = threading.BoundedSemaphore(_PROXY_THREADS)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        start = _with_request_id(environ, start_response)
        try:
            self._authenticator.check(environ)
            if is_proxied(environ["PATH_INFO"]):
                return self._forward(environ, start)
            response = self._respond(Request(environ), environ)
        except RefusedError as refusal:
            response = json_response(refusal.body, refusal.status)
        return _send(response, environ["REQUEST_METHOD"], start)

    def _respond(self, request: Request, environ: Mapping[str, Any]) -> Response:
        """Answer through the lifecycle API; redirect a path that has a route only without its final slashes.

        Raises:
            RefusedError: the handler refuses.
        """
        stripped = request.path.rstrip("/")
        if stripped not in ("", request.path) and self._router.has(stripped):
            return Response(307, headers=(("Location", _url_without_slash(environ)),))
        try:
            return self._router.respond(request)
        except RefusedError:
            raise
        except Exception:  # noqa: BLE001 - a fault of one handler must not end the thread, and the log shows it
            traceback.print_exc()
            return Response(500, b"Internal Server Error", (("Content-Type", "text/plain; charset=utf-8"),))

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


def _with_request_id(environ: Mapping[str, Any], start_response: StartResponse) -> StartResponse:
    """Return a ``start_response`` that adds a request id: the caller's, or a new one."""
    number = environ.get("HTTP_X_REQUEST_ID", "").strip() or uuid.uuid4().hex

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        kept = [(name, value) for name, value in headers if value and name.lower() != "x-request-id"]
        return start_response(status, [*kept, ("X-Request-ID", number)], exc_info)

    return start


def _send(response: Response, method: str, start: StartResponse) -> list[bytes]:
    """Send the head of a response, and return its body; a 204 has no length, and a response to HEAD no body."""
    length = () if response.status == _NO_CONTENT else (("Content-Length", str(len(response.body))),)
    start(f"{response.status} {responses.get(response.status, 'Refused')}", [*response.headers, *length])
    return [] if method == "HEAD" else [response.body]


def _url_without_slash(environ: Mapping[str, Any]) -> str:
    target, mark, query = environ["REQUEST_URI"].partition("?")
    host = "" if "://" in target else f"http://{environ['HTTP_HOST']}"
    return f"{host}{target.rstrip('/')}{mark}{query}"


def _own_version() -> str:
    try:
        return version("pytest-opensandbox")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
