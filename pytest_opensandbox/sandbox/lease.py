"""Keeps sandboxes alive for as long as this process lives, however many they are."""

from __future__ import annotations

import random
import threading
from collections import deque

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.errors import NotFoundError
from pytest_opensandbox.transport.retry import time_limit

_TURNS_PER_LEASE = 4
_TURNS_PER_LEASE_IN_TROUBLE = 16
# Workers that started together must not ask the server together for ever.
_JITTER = 0.25
# One after the other, 200 sandboxes on a server that takes a second for each would outlive their lease.
_AT_ONCE = 8


class Lease:
    """Renews sandboxes from one daemon thread, in turns of a quarter of a lease at the most.

    Args:
        client: asks the server.
        seconds: how long a sandbox may outlive its last renewal.
    """

    def __init__(self, client: Client, *, seconds: int) -> None:
        self.seconds = seconds
        self._client = client
        self._lock = threading.Lock()
        self._held: dict[str, None] = {}
        self._is_in_trouble = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, sandbox_id: str) -> None:
        """Renew this sandbox from now on."""
        with self._lock:
            self._held[sandbox_id] = None
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._keep, name="opensandbox-lease", daemon=True)
                self._thread.start()

    def release(self, sandbox_id: str) -> None:
        """Renew this sandbox no longer."""
        with self._lock:
            self._held.pop(sandbox_id, None)

    def stop(self) -> None:
        """End the thread; what is still held ends with its lease."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def renew_all(self) -> None:
        """Renew every sandbox that is held; one that is gone is dropped, after other trouble a turn follows soon."""
        with self._lock:
            waiting = deque(self._held)
            self._is_in_trouble = False
        helpers = [
            threading.Thread(target=self._work_off, args=(waiting,), name="opensandbox-renewal", daemon=True)
            for _ in range(min(len(waiting), _AT_ONCE) - 1)
        ]
        for helper in helpers:
            helper.start()
        self._work_off(waiting)
        for helper in helpers:
            helper.join()

    @property
    def _turn_seconds(self) -> float:
        return self.seconds / _TURNS_PER_LEASE

    def _work_off(self, waiting: deque[str]) -> None:
        while not self._stopped.is_set():
            try:
                sandbox_id = waiting.popleft()
            except IndexError:
                return
            self._renew(sandbox_id)

    def _renew(self, sandbox_id: str) -> None:
        try:
            # A server that holds one answer back must not keep the others from their turn.
            with time_limit(self._turn_seconds):
                self._client.renew(sandbox_id, self.seconds)
        except NotFoundError:
            self.release(sandbox_id)
        except Exception:  # noqa: BLE001 - a thread that dies of it would let all the other sandboxes die
            with self._lock:
                self._is_in_trouble = True
                # The last in the next turn, so that it does not keep others from theirs.
                if sandbox_id in self._held:
                    self._held[sandbox_id] = self._held.pop(sandbox_id)

    def _keep(self) -> None:
        while not self._stopped.wait(self._pause_seconds):
            self.renew_all()

    @property
    def _pause_seconds(self) -> float:
        """How long until the next turn; soon, while a server that was away may be back any moment."""
        turns = _TURNS_PER_LEASE_IN_TROUBLE if self._is_in_trouble else _TURNS_PER_LEASE
        return self.seconds / turns * random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads load
