"""Health checks of a server, also while it takes long to create a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_opensandbox.errors import ApiError, TransportError
from pytest_opensandbox.transport.retry import time_limit
from pytest_opensandbox.transport.transport import Transport

MISSED_PROBES = 4
"""Failed health checks in a row after which a create is given up."""


class Health:
    """The health of one server.

    Args:
        transport: sends the requests.
        watched: whether to check the health during a create. Servers before 1.1 do not respond meanwhile.
    """

    def __init__(self, transport: Transport, *, watched: bool = False) -> None:
        self._transport = transport
        self._watched = watched
        self._missed = 0

    def check(self, timeout: float) -> None:
        """Return if the server responds, with whatever status.

        Raises:
            TransportError: no response, or none in time.

        Source: opensandbox_server.main, GET /health; below the server's address, not below ``/v1``.
        """
        connect_seconds = min(timeout, self._transport.timeouts.connect_seconds)
        with suppress(ApiError), time_limit(timeout):
            url = f"{self._transport.root}/health"
            self._transport.request("GET", url, timeout=(connect_seconds, timeout)).close()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Give up the request in the block when the server no longer responds to health checks.

        Raises:
            TransportError: it does not; ``unsent`` where it did not before the block, so that nothing was sent.
        """
        if not self._watched:
            yield
            return
        if self._missed >= MISSED_PROBES:
            self._check_again()
        with time_limit(probe=self._probe, probe_seconds=self._transport.timeouts.health_seconds):
            yield

    def _check_again(self) -> None:
        try:
            self.check(self._transport.timeouts.silent_health_seconds)
        except TransportError as exc:
            raise _silent(exc, unsent=True) from None
        self._missed = 0

    def _probe(self) -> None:
        try:
            self.check(self._transport.timeouts.health_seconds)
        except TransportError as exc:
            self._missed += 1
            if self._missed >= MISSED_PROBES:
                raise _silent(exc) from None
        else:
            self._missed = 0


def _silent(error: TransportError, *, unsent: bool = False) -> TransportError:
    why = "the server no longer responds, not even to a health check"
    return TransportError(why, method=error.method, url=error.url, timed_out=True, unsent=unsent)
