"""The agent as a WSGI application: the access token, the way to other ports, and one table of routes."""

from __future__ import annotations

import hmac
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import bottle

from . import answers, downloads, files, folders, metrics, proxy, uploads
from .answers import RefusedError
from .calls import Call
from .commands import Commands
from .sessions import Sessions

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Wsgi = Callable[[Environ, StartResponse], Iterable[bytes]]

TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name
OWN_PORT = 44772


def make_app(*, token: str = "", linger_seconds: float = 0.0) -> Wsgi:
    """Return the application.

    Args:
        token: what each request must carry, in its header or as the first segment of its path; empty lets everybody in.
        linger_seconds: how long a command's event stream stays open after its last event.
    """
    router = _router(Commands(linger_seconds), Sessions())

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if token and not _shows(environ, token):
            return _unauthorized(start_response)
        port = proxy.take_port(environ, OWN_PORT)
        if port is not None:
            return proxy.forward(environ, start_response, port)
        answered: Iterable[bytes] = router.wsgi(environ, _without_type(start_response))
        return answered

    return app


def _shows(environ: Environ, token: str) -> bool:
    """Say whether a request carries the token, and take it off the path: what the request goes to is not told."""
    _, first, *rest = [*environ["PATH_INFO"].split("/", 2), ""][:3]
    if hmac.compare_digest(first.encode("latin-1"), token.encode()):
        environ["PATH_INFO"] = "/" + "".join(rest)
        return True
    return hmac.compare_digest(environ.get("HTTP_X_EXECD_ACCESS_TOKEN", "").encode("latin-1"), token.encode())


def _router(commands: Commands, sessions: Sessions) -> bottle.Bottle:
    """Return the routes; whatever is not among them is a 404 in plain text, HEAD included."""

    def interrupt(call: Call) -> bottle.HTTPResponse:
        identifier = call.needed("id")
        if commands.interrupt(identifier) or sessions.interrupt(identifier):
            return answers.done()
        raise RefusedError(500, "RUNTIME_ERROR", "error interruptting code context. no such session")

    routes: list[tuple[str, str, Callable[..., bottle.HTTPResponse]]] = [
        ("GET", "/ping", lambda call: answers.done()),
        ("POST", "/command", commands.run),
        ("DELETE", "/command", interrupt),
        ("GET", "/command/status/<identifier>", lambda call, identifier: commands.status(identifier)),
        ("GET", "/command/<identifier>/logs", commands.logs),
        ("POST", "/session", sessions.create),
        ("POST", "/session/<identifier>/run", sessions.run),
        ("DELETE", "/session/<identifier>", lambda call, identifier: sessions.delete(identifier)),
        ("GET", "/files/info", files.info),
        ("GET", "/files/search", files.search),
        ("GET", "/files/download", downloads.download),
        ("POST", "/files/upload", uploads.upload),
        ("POST", "/files/mv", files.move),
        ("POST", "/files/permissions", files.permissions),
        ("POST", "/files/replace", files.replace),
        ("DELETE", "/files", files.remove),
        ("GET", "/directories/list", folders.listing),
        ("POST", "/directories", folders.make),
        ("DELETE", "/directories", folders.remove),
        ("GET", "/metrics", metrics.once),
        ("GET", "/metrics/watch", metrics.watch),
    ]
    router = bottle.Bottle()
    router.default_error_handler = _not_routed
    for method, path, handler in routes:
        router.route(path, method, _guarded(handler))
    return router


def _guarded(handler: Callable[..., bottle.HTTPResponse]) -> Callable[..., bottle.HTTPResponse]:
    """Give a handler its call, and turn what it refuses, or fails at, into an answer."""

    def answer(**arguments: str) -> bottle.HTTPResponse:
        if bottle.request.method == "HEAD":
            return _not_found()
        try:
            return handler(Call(bottle.request.environ), **arguments)
        except RefusedError as exc:
            return exc.response()
        except Exception as exc:  # noqa: BLE001 - one request must not cost the sandbox
            traceback.print_exc(file=sys.stderr)
            return RefusedError(500, "RUNTIME_ERROR", f"the agent failed: {exc!r}").response()

    return answer


def _not_routed(_: bottle.HTTPError) -> bytes:
    bottle.response.status = 404
    bottle.response.content_type = "text/plain"
    return b"404 page not found"


def _not_found() -> bottle.HTTPResponse:
    return bottle.HTTPResponse(b"404 page not found", 404, {"Content-Type": "text/plain"})


def _unauthorized(start_response: StartResponse) -> list[bytes]:
    body = answers.encode({"error": f"Unauthorized: invalid or missing header {TOKEN_HEADER}"})
    start_response("401 Unauthorized", [("Content-Type", answers.JSON_TYPE), ("Content-Length", str(len(body)))])
    return [body]


def _without_type(start_response: StartResponse) -> StartResponse:
    """Drop the content type that stands for none."""

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [header for header in headers if header[1] != answers.NO_TYPE], exc_info)

    return start
