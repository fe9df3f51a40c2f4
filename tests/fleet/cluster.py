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
from tests.fleet.pods import Pods, Wish


class RefusalError(Exception):
    """What the server answers instead."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


@dataclass(eq=False)
class Box:
    """One sandbox; its state is that of the last of its ``steps`` whose time has come."""

    id: str
    number: int
    metadata: dict[str, str]
    wish: Wish
    ends_at: float
    """When its lease is over; ``time.time()`` seconds of this machine, which no factor shortens."""
    token: str = ""
    """What a gateway wants to see, "" for nothing."""
    address: int = 1
    """Its pod's place in the network."""
    reachable_at: float = 0.0
    """When its address is known."""
    listening_at: float = 0.0
    """When its agent listens."""
    gone_at: float | None = None
    """When it is no longer listed, once it has been deleted."""
    steps: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, "Pending")])

    def state(self, now: float) -> str:
        """Return the state that the server tells."""
        return [state for moment, state in self.steps if moment <= now][-1]

    def to_wire(self, now: float) -> dict[str, Any]:
        """Return what the server answers."""
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
        """How often what happened."""
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._pods = Pods(model)
        self._boxes: dict[str, Box] = {}

    @property
    def now(self) -> float:
        """Seconds of the cluster since it began."""
        return (time.monotonic() - self._began) / self.model.time_factor

    def pass_time(self, seconds: float) -> None:
        """Wait for so long in the cluster."""
        threading.Event().wait(seconds * self.model.time_factor)

    def create(self, wanted: dict[str, Any]) -> Box:
        """Make a sandbox and return when it runs, as the server does."""
        began = self.now
        with self._noting():
            box = self._new_box(wanted)
            self._place(box)
        end = began + self.model.create_timeout
        self.pass_time(min(box.wish.ready_at, end) - self.now)
        if box.wish.ready_at > end:
            with self._noting():
                self._end(box)
            raise self._no_room(box)
        self.count("created")
        return box

    def count(self, what: str) -> None:
        """Note that something happened."""
        with self._changed:
            self.counts[what] += 1
            there = self.counts["created"] - self.counts["deleted"] - self.counts["expired"]
            self.counts["most at once"] = max(self.counts["most at once"], there)

    def look_at(self, sandbox_id: str) -> Box:
        """Return a sandbox."""
        with self._noting():
            box = self._boxes.get(sandbox_id)
        if box is None:
            raise RefusalError(404, "KUBERNETES::SANDBOX_NOT_FOUND", f"Sandbox {sandbox_id} not found")
        return box

    def all(self) -> list[Box]:
        """Return all that are listed, the deleted ones whose pods are still ending among them."""
        with self._noting():
            return list(self._boxes.values())

    def delete(self, sandbox_id: str) -> None:
        """Delete a sandbox; its pod takes its time."""
        box = self.look_at(sandbox_id)
        with self._noting():
            self.counts["deleted"] += box.gone_at is None
            self._end(box)

    def pause(self, box: Box) -> None:
        """Begin to pause."""
        self._require(box, "Running")
        now, commit = self.now, self.model.commit.draw(self.model.seed, "commit", box.number)
        box.steps += [(now, "Pausing"), (now + commit, "Paused")]

    def resume(self, box: Box) -> None:
        """Begin to run again, in a new pod."""
        self._require(box, "Paused")
        box.steps.append((self.now, "Resuming"))
        self._start_elsewhere(box)

    def move(self, sandbox_id: str) -> None:
        """Take the pod away, as when its node is drained; another one comes."""
        box = self.look_at(sandbox_id)
        box.steps.append((self.now, "Pending"))
        self._start_elsewhere(box)

    def _new_box(self, wanted: dict[str, Any]) -> Box:
        self.counts["asked"] += 1
        pool = (wanted.get("extensions") or {}).get("poolRef", "")
        if pool and pool not in self.model.pools:
            raise RefusalError(404, "KUBERNETES::POOL_NOT_FOUND", f"Pool '{pool}' not found")
        box = Box(
            id=str(uuid.uuid4()),
            number=self.counts["asked"],
            metadata=dict(wanted.get("metadata") or {}),
            wish=Wish(pool),
            ends_at=time.time() + float(wanted.get("timeout") or 1e9),
            token=uuid.uuid4().hex if wanted.get("secureAccess") else "",
        )
        self._boxes[box.id] = box
        return box

    def _place(self, box: Box) -> None:
        """Wait for a pod; roll back where there is none in time."""
        self._pods.ask(box.wish, self.now)
        began = self.now
        patience = self.model.pool_timeout if box.wish.pool else self.model.create_timeout
        while box.wish.placed_at is None and self.now < began + patience:
            self._changed.wait(max(min(self._next(began + patience) - self.now, 1.0), 0.0) * self.model.time_factor)
            self._pods.move_on(self.now)
        if box.wish.placed_at is None:
            self._end(box)
            raise self._no_room(box)
        self._run(box, box.wish.ready_at)

    def _next(self, end: float) -> float:
        return min(end, end if self._pods.next_event is None else self._pods.next_event)

    def _no_room(self, box: Box) -> RefusalError:
        if not box.wish.pool:
            return RefusalError(504, "KUBERNETES::POD_READY_TIMEOUT", "Timeout waiting for it to be Running with IP.")
        # Whole seconds at a real server, where no factor shortens them.
        pause = {"Retry-After": f"{self.model.pool_timeout * self.model.time_factor:g}"}
        message = "No Pool capacity became available before the acquisition timeout."
        return RefusalError(429, "KUBERNETES::POOL_CAPACITY_EXHAUSTED", message, **pause)

    def _run(self, box: Box, moment: float) -> None:
        model = self.model
        box.steps.append((moment, "Running"))
        box.reachable_at = moment + model.address.draw(model.seed, "address", box.number, box.address)
        box.listening_at = max(
            box.reachable_at, moment + model.agent.draw(model.seed, "agent", box.number, box.address)
        )

    def _start_elsewhere(self, box: Box) -> None:
        box.address += 1
        self._run(box, self.now + self.model.pod_start.draw(self.model.seed, "again", box.number, box.address))

    def _end(self, box: Box) -> None:
        if box.gone_at is None:
            now = self.now
            box.steps.append((now, "Stopping"))
            box.gone_at = now + self.model.ending.draw(self.model.seed, "listed", box.number)
            self._pods.withdraw(box.wish, now)

    def _require(self, box: Box, state: str) -> None:
        if box.state(self.now) != state:
            raise RefusalError(409, "KUBERNETES::INVALID_STATE", f"Sandbox is {box.state(self.now)}, not {state}.")

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Hold the lock, with everything done that time has brought; whoever waits looks again afterwards."""
        with self._changed:
            for box in list(self._boxes.values()):
                if box.ends_at < time.time() and box.gone_at is None:
                    self.counts["expired"] += 1
                    self._end(box)
                if box.gone_at is not None and box.gone_at <= self.now:
                    del self._boxes[box.id]
            self._pods.move_on(self.now)
            try:
                yield
            finally:
                self._changed.notify_all()
