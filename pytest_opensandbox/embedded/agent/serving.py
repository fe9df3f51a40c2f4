"""The HTTP server around the application: waitress on a socket that listens already."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Any

from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from .app import Wsgi
from .commands import most_streams

SPARE_CONNECTIONS = 64
"""On top of those that may stream a command: so that a flood of commands cannot shut out a ping or an interrupt."""


class GrowingDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    """Threads for requests, one more whenever all are busy: a slow command keeps nobody waiting."""

    def add_task(self, task: Any) -> None:
        """Hand a request to a thread that is free, or to a new one."""
        with self.lock:
            is_short = len(self.queue) >= len(self.threads) - self.active_count
        if is_short:
            with suppress(RuntimeError):  # no more threads to be had: the request waits for its turn
                self.set_thread_count(len(self.threads) + 1)
        super().add_task(task)


def make_server(app: Wsgi, listener: socket.socket) -> Any:
    """Return a waitress server; its ``run()`` serves until the process ends.

    Args:
        app: what answers.
        listener: bound and listening, TCP or AF_UNIX.
    """
    logging.basicConfig(level=logging.ERROR, format="agent: %(message)s")
    dispatcher = GrowingDispatcher()
    dispatcher.set_thread_count(1)
    return create_server(
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
