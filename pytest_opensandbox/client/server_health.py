"""Whether a server answers at all, asked while it takes its time for something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_opensandbox.errors import ApiError, TransportError
from pytest_opensandbox.transport.retry import time_limit
from pytest_opensandbox.transport.transport import Transport

MISSED_PROBES = 4
"""How many times in a row it may say nothing of its health."""


class Health:
    """Asks one server for its health.

    Args:
        transport: asks the server.
        watched: whether it is asked while a create takes its time. Servers before 1.1 do not answer meanwhile.
    """

    def __init__(self, transport: Transport, *, watched: bool = False) -> None:
        self._transport = transport
        self._watched = watched
        self._missed = 0

    def check(self, timeout: float) -> None:
        """Return if the server answers anything at all.

        Raises:
            TransportError: nothing, or not in time.

        Source: opensandbox_server.main, GET /health; below the server's address, not below ``/v1``.
        """
        connect_seconds = min(timeout, self._transport.timeouts.connect_seconds)
        with suppress(ApiError), time_limit(timeout):
            url = f"{self._transport.root}/health"
            self._transport.request("GET", url, timeout=(connect_seconds, timeout)).close()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Give up what is asked for in the block when the server has stopped answering anything.

        Raises:
            TransportError: it has; ``unsent`` where it had before, so that nothing was asked for.
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
    why = "the server does not answer any more, not even when it is asked for its health"
    return TransportError(why, method=error.method, url=error.url, timed_out=True, unsent=unsent)
