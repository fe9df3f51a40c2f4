"""The HTTP server: waitress, the access token, the table of routes, and the reverse proxy to other ports."""

from __future__ import annotations

import hmac
import logging
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from . import downloads, files, http, metrics, proxy, uploads
from .commands import Commands, most_streams
from .http import FAILED, Environ, RefusedError, Request, Response, Router, StartResponse
from .sessions import Sessions
from .upgrades import UpgradableChannel

Wsgi = Callable[[Environ, StartResponse], Iterable[bytes]]

TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name
OWN_PORT = 44772
SPARE_CONNECTIONS = 64
"""Connections besides those that may stream a command, so that a ping or an interrupt always gets through."""
_UNAUTHORIZED = Response(
    http.encode({"error": f"Unauthorized: invalid or missing header {TOKEN_HEADER}"}),
    401,
    {"Content-Type": http.JSON_TYPE},
)


def make_app(*, token: str = "", linger_seconds: float = 0.0) -> Wsgi:
    """Return the application.

    Args:
        token: what each request must carry, in its header or as the first segment of its path; empty accepts all.
        linger_seconds: how long a command's event stream stays open after its last event.
    """
    router = _router(Commands(linger_seconds), Sessions())

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if token and not _is_authorized(environ, token):
            return _UNAUTHORIZED.send(start_response)
        port = proxy.take_port(environ, OWN_PORT)
        if port is not None:
            return proxy.forward(environ, start_response, port)
        return router(environ, start_response)

    return app


def _is_authorized(environ: Environ, token: str) -> bool:
    """Return whether a request carries the token; one in the path is removed, so that no service sees it."""
    _, first, *rest = [*environ["PATH_INFO"].split("/", 2), ""][:3]
    if hmac.compare_digest(first.encode("latin-1"), token.encode()):
        environ["PATH_INFO"] = "/" + "".join(rest)
        return True
    return hmac.compare_digest(environ.get("HTTP_X_EXECD_ACCESS_TOKEN", "").encode("latin-1"), token.encode())


def _router(commands: Commands, sessions: Sessions) -> Router:
    """Return the routes; every other request, HEAD included, is a 404 in plain text."""

    def interrupt(request: Request) -> Response:
        identifier = request.required("id")
        if commands.interrupt(identifier) or sessions.interrupt(identifier):
            return Response()
        raise RefusedError(500, FAILED, f"no command or session {identifier}")

    return Router(
        [
            ("GET", "/ping", lambda _: Response()),
            ("POST", "/command", commands.run),
            ("DELETE", "/command", interrupt),
            ("GET", "/command/status/*", commands.status),
            ("GET", "/command/*/logs", commands.logs),
            ("POST", "/session", sessions.create),
            ("POST", "/session/*/run", sessions.run),
            ("DELETE", "/session/*", sessions.delete),
            ("GET", "/files/info", files.info),
            ("GET", "/files/search", files.search),
            ("GET", "/files/download", downloads.download),
            ("POST", "/files/upload", uploads.upload),
            ("POST", "/files/mv", files.move),
            ("POST", "/files/permissions", files.set_permissions),
            ("POST", "/files/replace", files.replace_text),
            ("DELETE", "/files", files.remove_files),
            ("GET", "/directories/list", files.list_directory),
            ("POST", "/directories", files.make_directories),
            ("DELETE", "/directories", files.remove_directories),
            ("GET", "/metrics", metrics.once),
            ("GET", "/metrics/watch", metrics.watch),
        ]
    )


class GrowingDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """Threads for requests, one more whenever all are busy, so that no request waits for a slow command."""

    def add_task(self, task: Any) -> None:
        """Hand a request to a thread that is free, or to a new one."""
        with self.lock:
            is_short = len(self.queue) >= len(self.threads) - self.active_count
        if is_short:
            with suppress(RuntimeError):  # the system refuses a thread: the request waits for its turn
                self.set_thread_count(len(self.threads) + 1)
        super().add_task(task)


def make_server(app: Wsgi, listener: socket.socket) -> Any:
    """Return a waitress server; its ``run()`` serves until the process ends.

    Args:
        app: the application.
        listener: bound and listening, TCP or AF_UNIX.
    """
    logging.basicConfig(level=logging.ERROR, format="agent: %(message)s")
    dispatcher = GrowingDispatcher()
    dispatcher.set_thread_count(1)
    server = create_server(
        app,
        _dispatcher=dispatcher,
        sockets=[listener],
        ident="",
        asyncore_use_poll=True,
        channel_request_lookahead=1,  # without it a client that goes away is only noticed at the next write
        clear_untrusted_proxy_headers=True,
        connection_limit=most_streams() + SPARE_CONNECTIONS,
        max_request_body_size=2**62,
        outbuf_high_watermark=2**20,
        recv_bytes=262_144,
        log_socket_errors=False,
        expose_tracebacks=False,
    )
    server.channel_class = UpgradableChannel
    return server
