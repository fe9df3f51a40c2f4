"""How long a block of calls may take altogether, whatever they do: connections, answers, waits between two tries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

_end: ContextVar[float] = ContextVar("opensandbox_end", default=inf)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let everything that this thread asks a server for in the block end in time; of two limits the nearer counts.

    Args:
        seconds: from now on.
    """
    token = _end.set(min(_end.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _end.reset(token)


def time_left() -> float:
    """Return how much of the limit is left; seconds, below 0 when it is over, infinite where there is none."""
    return _end.get() - time.monotonic()
