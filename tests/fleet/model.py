"""The model of a simulated cluster: its size, its limits and its delays, each a number that can be changed.

Names, order of events, limits and answers are those of opensandbox-server 1.1.1 and of the controller's pool and pause
documents. The delays are assumptions, not measurements: they are what a small cluster with the image on its nodes may
take, and the tables made of them name them as such.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

_95TH_PERCENTILE = 1.645


@dataclass(frozen=True)
class Delay:
    """A time that differs from case to case: log-normal, by its median and the time that 19 in 20 stay below."""

    median: float
    """Seconds."""
    p95: float
    """Seconds."""

    def draw(self, *key: object) -> float:
        """Return the time for one case; the same for the same key, whatever was drawn before."""
        if self.median <= 0:
            return 0.0
        spread = math.log(self.p95 / self.median) / _95TH_PERCENTILE
        return random.Random(":".join(map(str, key))).lognormvariate(math.log(self.median), spread)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool by the fields of its custom resource."""

    max_pods: int = 40
    """``poolMax``: the most pods in it, with those that are ending."""
    min_pods: int = 0
    """``poolMin``."""
    buffer_min: int = 8
    """``bufferMin``: fewer idle pods than that, and some are added."""
    buffer_max: int = 16
    """``bufferMax``: more idle pods than that, and some are ended."""
    max_unavailable: float = 0.25
    """``maxUnavailable`` of its scale strategy: part of the pods that may be starting at once."""
    recycle: str = "Delete"
    """``Delete`` or ``Restart``, for a pod whose sandbox has ended."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A cluster; times in seconds of the cluster, of which ``time_factor`` makes seconds of this machine."""

    seed: int = 1
    """Draws the delays: equal seeds give equal delays to the n-th sandbox and the n-th pod."""
    time_factor: float = 1.0
    """Length of a second of the cluster on this machine; seconds."""
    nodes_hold: int = 64
    """Pods outside the pool that find a place at once; others are Pending until one ends."""
    pools: dict[str, Pool] = field(default_factory=lambda: {"tests": Pool()})
    """Pools by name."""
    endpoints: str = "header"
    """How its ingress names a port: ``header``, ``uri``, or ``direct`` for the address of the pod."""
    request: Delay = Delay(0.015, 0.06)
    """From a request to its response, where the server waits for nothing."""
    pod_start: Delay = Delay(6.0, 15.0)
    """From a pod's creation until it is ready: scheduling, the container that brings execd, the image on the node."""
    restart: Delay = Delay(3.0, 6.0)
    """A used pod's containers start again."""
    ending: Delay = Delay(2.0, 5.0)
    """From a deletion until the pod's place is free."""
    address: Delay = Delay(0.1, 0.5)
    """From Running until the address is known; until then 404 POD_IP_NOT_AVAILABLE."""
    agent: Delay = Delay(0.6, 1.5)
    """From Running until execd listens; until then the gateway's 503."""
    commit: Delay = Delay(8.0, 20.0)
    """From a pause until the file system is an image in the registry."""
    linger: float = 1.0
    """How long execd holds a command's response open after the last event; seconds."""
    create_timeout: float = 60.0
    """``sandbox_create_timeout_seconds``: then a create is rolled back and answered with 504."""
    pool_timeout: float = 30.0
    """``pool_acquisition_timeout_seconds``: a create is rolled back and answered with 429; and its Retry-After."""
