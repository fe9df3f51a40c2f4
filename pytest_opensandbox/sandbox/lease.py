"""The lease of a run's sandboxes, which is renewed while this process lives."""

from __future__ import annotations

import random
import threading
from collections import deque

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.errors import NotFoundError
from pytest_opensandbox.transport.retry import time_limit

_TURNS_PER_LEASE = 4
_TURNS_PER_LEASE_AFTER_FAILURE = 16
# Without it, workers that started together would renew together for as long as they run.
_JITTER = 0.25


class Lease:
    """Renews sandboxes until they are released.

    One daemon thread begins a turn every quarter of a lease, and sooner after a failure. In a turn it shares the
    renewals with further daemon threads, one for each sandbox up to ``at_once``; they end with the turn. One after
    the other, 200 sandboxes on a server that takes a second for each would outlive their lease.

    Args:
        client: talks to the server.
        seconds: how long a sandbox may outlive its last renewal.
        at_once: most renewals at the same time, and so most threads.
    """

    def __init__(self, client: Client, *, seconds: int, at_once: int = 8) -> None:
        self.seconds = seconds
        self._client = client
        self._at_once = at_once
        self._lock = threading.Lock()
        self._held: dict[str, None] = {}
        self._has_failed = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, sandbox_id: str) -> None:
        """Renew this sandbox from now on."""
        with self._lock:
            self._held[sandbox_id] = None
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._take_turns, name="opensandbox-lease", daemon=True)
                self._thread.start()

    def release(self, sandbox_id: str) -> None:
        """Stop renewing this sandbox."""
        with self._lock:
            self._held.pop(sandbox_id, None)

    def stop(self) -> None:
        """End the thread; a sandbox that is still held ends with its lease."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def renew_all(self) -> None:
        """Renew every sandbox that is held, and release those that no longer exist.

        After any other failure the next turn comes soon.
        """
        with self._lock:
            waiting = deque(self._held)
            self._has_failed = False
        helpers = [
            threading.Thread(target=self._renew_from, args=(waiting,), name="opensandbox-renewal", daemon=True)
            for _ in range(min(len(waiting), self._at_once) - 1)
        ]
        for helper in helpers:
            helper.start()
        self._renew_from(waiting)
        for helper in helpers:
            helper.join()

    @property
    def pause_seconds(self) -> float:
        """Seconds until the next turn, at random; few after a failure, because the server may be back any moment."""
        turns = _TURNS_PER_LEASE_AFTER_FAILURE if self._has_failed else _TURNS_PER_LEASE
        return self.seconds / turns * random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads load

    def _take_turns(self) -> None:
        while not self._stopped.wait(self.pause_seconds):
            self.renew_all()

    def _renew_from(self, waiting: deque[str]) -> None:
        while not self._stopped.is_set():
            try:
                sandbox_id = waiting.popleft()
            except IndexError:
                return
            self._renew(sandbox_id)

    def _renew(self, sandbox_id: str) -> None:
        try:
            # A server that holds one answer back must not keep the others from their turn.
            with time_limit(self.seconds / _TURNS_PER_LEASE):
                self._client.renew(sandbox_id, self.seconds)
        except NotFoundError:
            self.release(sandbox_id)
        except Exception:  # noqa: BLE001 - a thread that dies of it would let all the other sandboxes die
            with self._lock:
                self._has_failed = True
                # The last in the next turn, so that it does not keep others from theirs.
                if sandbox_id in self._held:
                    self._held[sandbox_id] = self._held.pop(sandbox_id)
