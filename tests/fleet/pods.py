"""The pods of a simulated cluster: when one is there for a sandbox, and what becomes of it afterwards."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from tests.fleet.model import Model, Pool


@dataclass(eq=False)
class Wish:
    """A sandbox that waits for a pod."""

    pool: str
    """Name of the pool, "" for a pod of its own."""
    placed_at: float | None = None
    """When it was given its pod; None until then."""
    ready_at: float = 0.0
    """When that pod is ready."""


class Nodes:
    """Places for pods that are made for one sandbox each."""

    def __init__(self, model: Model, numbers: Callable[[], int]) -> None:
        self.free = model.nodes_hold
        self.waiting: deque[Wish] = deque()
        self._model = model
        self._number = numbers

    def step(self, now: float) -> list[tuple[float, str]]:
        """Give places to those who wait."""
        while self.free and self.waiting:
            self.free -= 1
            wish = self.waiting.popleft()
            wish.placed_at = now
            wish.ready_at = now + self._model.pod_start.draw(self._model.seed, "pod", self._number())
        return []

    def happen(self, event: str) -> None:
        """Take in what was planned: a pod is gone."""
        self.free += 1

    def give_back(self, now: float) -> list[tuple[float, str]]:
        """End a pod."""
        return [(now + self._model.ending.draw(self._model.seed, "end", self._number()), "gone")]


class PooledPods:
    """Pods that are made ahead, by the rules of the pool controller's ``scalePool``."""

    def __init__(self, pool: Pool, model: Model, numbers: Callable[[], int]) -> None:
        self.waiting: deque[Wish] = deque()
        self.idle = min(max((pool.buffer_min + pool.buffer_max) // 2, pool.min_pods), pool.max_pods)
        self.starting = 0
        self.ending = 0
        self.allocated = 0
        self._pool = pool
        self._model = model
        self._number = numbers

    def step(self, now: float) -> list[tuple[float, str]]:
        """Allocate idle pods, and plan new ones where the buffer wants it."""
        while self.idle and self.waiting:
            self.idle -= 1
            self.allocated += 1
            wish = self.waiting.popleft()
            wish.placed_at = wish.ready_at = now
        starts = [self._model.pod_start.draw(self._model.seed, "pod", self._number()) for _ in range(self._wanted)]
        self.starting += len(starts)
        return [(now + seconds, "ready") for seconds in starts]

    def happen(self, event: str) -> None:
        """Take in what was planned: a pod is ready, or gone."""
        if event == "ready":
            self.starting -= 1
            self.idle += 1
        else:
            self.ending -= 1

    def give_back(self, now: float) -> list[tuple[float, str]]:
        """End a pod, or start it anew."""
        self.allocated -= 1
        if self._pool.recycle == "Restart":
            self.starting += 1
            return [(now + self._model.restart.draw(self._model.seed, "restart", self._number()), "ready")]
        self.ending += 1
        return [(now + self._model.ending.draw(self._model.seed, "end", self._number()), "gone")]

    @property
    def _wanted(self) -> int:
        """How many pods to make now."""
        pool, there = self._pool, self.idle + self.starting
        is_enough = pool.buffer_min <= there <= pool.buffer_max
        buffer = there if is_enough else (pool.buffer_min + pool.buffer_max) // 2
        desired = max(self.allocated + len(self.waiting) + buffer, pool.min_pods)
        missing = desired - there - self.allocated
        room = pool.max_pods - there - self.allocated - self.ending
        may_start = max(1, int(pool.max_unavailable * desired)) - self.starting
        return max(0, min(missing, room, may_start))


class Pods:
    """All pods, moved on from one planned event to the next."""

    def __init__(self, model: Model) -> None:
        numbers = count()
        nodes = Nodes(model, lambda: next(numbers))
        self._places: dict[str, Nodes | PooledPods] = {"": nodes}
        self._places |= {name: PooledPods(pool, model, lambda: next(numbers)) for name, pool in model.pools.items()}
        self._plan: list[tuple[float, int, str, str]] = []
        self._order = count()

    def ask(self, wish: Wish, now: float) -> None:
        """Begin to wait for a pod."""
        self._places[wish.pool].waiting.append(wish)
        self.move_on(now)

    def withdraw(self, wish: Wish, now: float) -> None:
        """Wait no longer, or give the pod back."""
        place = self._places[wish.pool]
        if wish.placed_at is None:
            place.waiting.remove(wish)
        else:
            self._note(wish.pool, place.give_back(now))
        self.move_on(now)

    def move_on(self, now: float) -> None:
        """Let everything happen that was planned until now."""
        while self._plan and self._plan[0][0] <= now:
            moment, _, name, event = heapq.heappop(self._plan)
            self._places[name].happen(event)
            self._note(name, self._places[name].step(moment))
        for name, place in self._places.items():
            self._note(name, place.step(now))

    @property
    def next_event(self) -> float | None:
        """When something is planned to happen; None for never."""
        return self._plan[0][0] if self._plan else None

    def _note(self, name: str, events: list[tuple[float, str]]) -> None:
        for moment, event in events:
            heapq.heappush(self._plan, (moment, next(self._order), name, event))
