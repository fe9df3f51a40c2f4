"""Whether a server answers at all, asked while it takes its time for something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_opensandbox.errors import ApiError, TransportError
from pytest_opensandbox.transport.deadlines import looking, time_limit
from pytest_opensandbox.transport.transport import CONNECT_TIMEOUT_SECONDS, Transport

LOOK_SECONDS = 5.0
"""How long a server is silent before it is asked for its health, and how long it may take to tell."""
MISSED_LOOKS = 4
"""How many times in a row it may say nothing of its health."""
SHORT_LOOK_SECONDS = 2.0
"""How long it may take once it was found to be silent."""


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
        url, timeouts = f"{self._transport.root}/health", (min(timeout, CONNECT_TIMEOUT_SECONDS), timeout)
        with suppress(ApiError), time_limit(timeout):
            self._transport.request("GET", url, timeout=timeouts).close()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Give up what is asked for in the block when the server has stopped answering anything.

        Raises:
            TransportError: it has; ``unsent`` where it had before, so that nothing was asked for.
        """
        if not self._watched:
            yield
            return
        if self._missed >= MISSED_LOOKS:
            self._check_again()
        with looking(self._look, every_seconds=LOOK_SECONDS):
            yield

    def _check_again(self) -> None:
        try:
            self.check(SHORT_LOOK_SECONDS)
        except TransportError as exc:
            raise _silent(exc, unsent=True) from None
        self._missed = 0

    def _look(self) -> None:
        try:
            self.check(LOOK_SECONDS)
        except TransportError as exc:
            self._missed += 1
            if self._missed >= MISSED_LOOKS:
                raise _silent(exc) from None
        else:
            self._missed = 0


def _silent(error: TransportError, *, unsent: bool = False) -> TransportError:
    why = "the server does not answer any more, not even when it is asked for its health"
    return TransportError(why, method=error.method, url=error.url, timed_out=True, unsent=unsent)
