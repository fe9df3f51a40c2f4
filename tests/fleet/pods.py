"""The pods of a simulated cluster: when a sandbox gets one, and whether it is deleted or restarted afterwards."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from tests.fleet.model import Model, Pool


@dataclass(eq=False)
class PodRequest:
    """A sandbox's request for a pod."""

    pool: str
    """Name of the pool, "" for a pod of its own."""
    placed_at: float | None = None
    """When the sandbox got its pod; None before."""
    ready_at: float = 0.0
    """When the pod is ready."""


class Nodes:
    """The pods that are created for one sandbox each."""

    def __init__(self, model: Model, numbers: Callable[[], int]) -> None:
        self.free = model.nodes_hold
        self.waiting: deque[PodRequest] = deque()
        self._model = model
        self._number = numbers

    def step(self, now: float) -> list[tuple[float, str]]:
        """Give pods to the requests that wait."""
        while self.free and self.waiting:
            self.free -= 1
            pod_request = self.waiting.popleft()
            pod_request.placed_at = now
            pod_request.ready_at = now + self._model.pod_start.draw(self._model.seed, "pod", self._number())
        return []

    def apply(self, event: str) -> None:
        """Apply a planned event: a pod is gone."""
        self.free += 1

    def release(self, now: float) -> list[tuple[float, str]]:
        """Delete a pod."""
        return [(now + self._model.ending.draw(self._model.seed, "end", self._number()), "gone")]


class PooledPods:
    """Pods that are created ahead of need, by the rules of the pool controller's ``scalePool``."""

    def __init__(self, pool: Pool, model: Model, numbers: Callable[[], int]) -> None:
        self.waiting: deque[PodRequest] = deque()
        self.idle = min(max((pool.buffer_min + pool.buffer_max) // 2, pool.min_pods), pool.max_pods)
        self.starting = 0
        self.ending = 0
        self.allocated = 0
        self._pool = pool
        self._model = model
        self._number = numbers

    def step(self, now: float) -> list[tuple[float, str]]:
        """Allocate idle pods, and plan new ones where the buffer is too small."""
        while self.idle and self.waiting:
            self.idle -= 1
            self.allocated += 1
            pod_request = self.waiting.popleft()
            pod_request.placed_at = pod_request.ready_at = now
        starts = [self._model.pod_start.draw(self._model.seed, "pod", self._number()) for _ in range(self._wanted)]
        self.starting += len(starts)
        return [(now + seconds, "ready") for seconds in starts]

    def apply(self, event: str) -> None:
        """Apply a planned event: a pod is ready, or gone."""
        if event == "ready":
            self.starting -= 1
            self.idle += 1
        else:
            self.ending -= 1

    def release(self, now: float) -> list[tuple[float, str]]:
        """Delete a pod, or restart it."""
        self.allocated -= 1
        if self._pool.recycle == "Restart":
            self.starting += 1
            return [(now + self._model.restart.draw(self._model.seed, "restart", self._number()), "ready")]
        self.ending += 1
        return [(now + self._model.ending.draw(self._model.seed, "end", self._number()), "gone")]

    @property
    def _wanted(self) -> int:
        """How many pods to create now."""
        pool, unused = self._pool, self.idle + self.starting
        is_enough = pool.buffer_min <= unused <= pool.buffer_max
        buffer = unused if is_enough else (pool.buffer_min + pool.buffer_max) // 2
        desired = max(self.allocated + len(self.waiting) + buffer, pool.min_pods)
        missing = desired - unused - self.allocated
        free = pool.max_pods - unused - self.allocated - self.ending
        may_start = max(1, int(pool.max_unavailable * desired)) - self.starting
        return max(0, min(missing, free, may_start))


class Pods:
    """All pods, advanced from one planned event to the next."""

    def __init__(self, model: Model) -> None:
        numbers = count()
        nodes = Nodes(model, lambda: next(numbers))
        self._places: dict[str, Nodes | PooledPods] = {"": nodes}
        self._places |= {name: PooledPods(pool, model, lambda: next(numbers)) for name, pool in model.pools.items()}
        self._plan: list[tuple[float, int, str, str]] = []
        self._order = count()

    def ask(self, pod_request: PodRequest, now: float) -> None:
        """Queue a request for a pod."""
        self._places[pod_request.pool].waiting.append(pod_request)
        self.advance(now)

    def withdraw(self, pod_request: PodRequest, now: float) -> None:
        """Withdraw a request, or release its pod."""
        place = self._places[pod_request.pool]
        if pod_request.placed_at is None:
            place.waiting.remove(pod_request)
        else:
            self._note(pod_request.pool, place.release(now))
        self.advance(now)

    def advance(self, now: float) -> None:
        """Apply every event that was planned until now."""
        while self._plan and self._plan[0][0] <= now:
            moment, _, name, event = heapq.heappop(self._plan)
            self._places[name].apply(event)
            self._note(name, self._places[name].step(moment))
        for name, place in self._places.items():
            self._note(name, place.step(now))

    @property
    def next_event(self) -> float | None:
        """When the next event is planned; None without one."""
        return self._plan[0][0] if self._plan else None

    def _note(self, name: str, events: list[tuple[float, str]]) -> None:
        for moment, event in events:
            heapq.heappush(self._plan, (moment, next(self._order), name, event))
