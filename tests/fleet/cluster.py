"""The sandboxes of a simulated cluster: created, found, paused, moved and deleted, in the cluster's own time."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fleet.model import Model
from tests.fleet.pods import PodRequest, Pods


class RefusalError(Exception):
    """An error response of the server."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


@dataclass(eq=False)
class SimulatedSandbox:
    """One sandbox; its state is that of the last of its ``steps`` whose time has come."""

    id: str
    number: int
    metadata: dict[str, str]
    pod_request: PodRequest
    ends_at: float
    """When its lease is over; ``time.time()`` seconds of this machine, which no factor shortens."""
    token: str = ""
    """The token that the gateway requires, "" for none."""
    address: int = 1
    """Number of its pod's address."""
    reachable_at: float = 0.0
    """When its address is known."""
    listening_at: float = 0.0
    """When its agent listens."""
    gone_at: float | None = None
    """When it is no longer listed, once it has been deleted."""
    steps: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, "Pending")])

    def state(self, now: float) -> str:
        """Return the state that the server reports."""
        return [state for moment, state in self.steps if moment <= now][-1]

    def to_wire(self, now: float) -> dict[str, Any]:
        """Return the sandbox as the server's JSON object."""
        state = self.state(now)
        return {"id": self.id, "status": {"state": state, "reason": state.upper()}, "metadata": self.metadata}

    def sign(self, port: int, expires: str) -> str:
        """Return the signature of an address."""
        return hashlib.sha256(f"{self.id}:{port}:{expires}".encode()).hexdigest()[:8] + "k"


class Cluster:
    """A cluster; safe to use from as many threads as there are requests."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.counts: Counter[str] = Counter()
        """How often each event happened."""
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._pods = Pods(model)
        self._sandboxes: dict[str, SimulatedSandbox] = {}

    @property
    def now(self) -> float:
        """Seconds of the cluster since it began."""
        return (time.monotonic() - self._began) / self.model.time_factor

    def sleep(self, seconds: float) -> None:
        """Wait for seconds of the cluster."""
        threading.Event().wait(seconds * self.model.time_factor)

    def create(self, body: dict[str, Any]) -> SimulatedSandbox:
        """Create a sandbox and return once it runs, as the server does."""
        began = self.now
        with self._locked():
            sandbox = self._new_sandbox(body)
            self._place(sandbox)
        end = began + self.model.create_timeout
        self.sleep(min(sandbox.pod_request.ready_at, end) - self.now)
        if sandbox.pod_request.ready_at > end:
            with self._locked():
                self._end(sandbox)
            raise self._capacity_error(sandbox)
        self.count("created")
        return sandbox

    def count(self, what: str) -> None:
        """Count an event."""
        with self._changed:
            self.counts[what] += 1
            alive = self.counts["created"] - self.counts["deleted"] - self.counts["expired"]
            self.counts["most at once"] = max(self.counts["most at once"], alive)

    def get_sandbox(self, sandbox_id: str) -> SimulatedSandbox:
        """Return a sandbox."""
        with self._locked():
            sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise RefusalError(404, "KUBERNETES::SANDBOX_NOT_FOUND", f"Sandbox {sandbox_id} not found")
        return sandbox

    def all(self) -> list[SimulatedSandbox]:
        """Return the listed sandboxes, with the deleted ones whose pods are still ending."""
        with self._locked():
            return list(self._sandboxes.values())

    def delete(self, sandbox_id: str) -> None:
        """Delete a sandbox; its pod takes its time."""
        sandbox = self.get_sandbox(sandbox_id)
        with self._locked():
            self.counts["deleted"] += sandbox.gone_at is None
            self._end(sandbox)

    def pause(self, sandbox: SimulatedSandbox) -> None:
        """Begin to pause."""
        self._require(sandbox, "Running")
        now, commit = self.now, self.model.commit.draw(self.model.seed, "commit", sandbox.number)
        sandbox.steps += [(now, "Pausing"), (now + commit, "Paused")]

    def resume(self, sandbox: SimulatedSandbox) -> None:
        """Begin to run again, in a new pod."""
        self._require(sandbox, "Paused")
        sandbox.steps.append((self.now, "Resuming"))
        self._start_elsewhere(sandbox)

    def move(self, sandbox_id: str) -> None:
        """Take the pod away, as when its node is drained; another one comes."""
        sandbox = self.get_sandbox(sandbox_id)
        sandbox.steps.append((self.now, "Pending"))
        self._start_elsewhere(sandbox)

    def _new_sandbox(self, body: dict[str, Any]) -> SimulatedSandbox:
        self.counts["asked"] += 1
        pool = (body.get("extensions") or {}).get("poolRef", "")
        if pool and pool not in self.model.pools:
            raise RefusalError(404, "KUBERNETES::POOL_NOT_FOUND", f"Pool '{pool}' not found")
        sandbox = SimulatedSandbox(
            id=str(uuid.uuid4()),
            number=self.counts["asked"],
            metadata=dict(body.get("metadata") or {}),
            pod_request=PodRequest(pool),
            ends_at=time.time() + float(body.get("timeout") or 1e9),
            token=uuid.uuid4().hex if body.get("secureAccess") else "",
        )
        self._sandboxes[sandbox.id] = sandbox
        return sandbox

    def _place(self, sandbox: SimulatedSandbox) -> None:
        """Wait for a pod; roll back where there is none in time."""
        self._pods.ask(sandbox.pod_request, self.now)
        began = self.now
        timeout = self.model.pool_timeout if sandbox.pod_request.pool else self.model.create_timeout
        while sandbox.pod_request.placed_at is None and self.now < began + timeout:
            self._changed.wait(max(min(self._next(began + timeout) - self.now, 1.0), 0.0) * self.model.time_factor)
            self._pods.advance(self.now)
        if sandbox.pod_request.placed_at is None:
            self._end(sandbox)
            raise self._capacity_error(sandbox)
        self._run(sandbox, sandbox.pod_request.ready_at)

    def _next(self, end: float) -> float:
        return min(end, end if self._pods.next_event is None else self._pods.next_event)

    def _capacity_error(self, sandbox: SimulatedSandbox) -> RefusalError:
        if not sandbox.pod_request.pool:
            return RefusalError(504, "KUBERNETES::POD_READY_TIMEOUT", "Timeout waiting for it to be Running with IP.")
        # Whole seconds at a real server, where no factor shortens them.
        pause = {"Retry-After": f"{self.model.pool_timeout * self.model.time_factor:g}"}
        message = "No Pool capacity became available before the acquisition timeout."
        return RefusalError(429, "KUBERNETES::POOL_CAPACITY_EXHAUSTED", message, **pause)

    def _run(self, sandbox: SimulatedSandbox, moment: float) -> None:
        model = self.model
        sandbox.steps.append((moment, "Running"))
        sandbox.reachable_at = moment + model.address.draw(model.seed, "address", sandbox.number, sandbox.address)
        sandbox.listening_at = max(
            sandbox.reachable_at, moment + model.agent.draw(model.seed, "agent", sandbox.number, sandbox.address)
        )

    def _start_elsewhere(self, sandbox: SimulatedSandbox) -> None:
        sandbox.address += 1
        self._run(
            sandbox, self.now + self.model.pod_start.draw(self.model.seed, "again", sandbox.number, sandbox.address)
        )

    def _end(self, sandbox: SimulatedSandbox) -> None:
        if sandbox.gone_at is None:
            now = self.now
            sandbox.steps.append((now, "Stopping"))
            sandbox.gone_at = now + self.model.ending.draw(self.model.seed, "listed", sandbox.number)
            self._pods.withdraw(sandbox.pod_request, now)

    def _require(self, sandbox: SimulatedSandbox, state: str) -> None:
        if sandbox.state(self.now) != state:
            raise RefusalError(409, "KUBERNETES::INVALID_STATE", f"Sandbox is {sandbox.state(self.now)}, not {state}.")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock with the cluster advanced to the present, and wake the waiting creates afterwards."""
        with self._changed:
            for sandbox in list(self._sandboxes.values()):
                if sandbox.ends_at < time.time() and sandbox.gone_at is None:
                    self.counts["expired"] += 1
                    self._end(sandbox)
                if sandbox.gone_at is not None and sandbox.gone_at <= self.now:
                    del self._sandboxes[sandbox.id]
            self._pods.advance(self.now)
            try:
                yield
            finally:
                self._changed.notify_all()
