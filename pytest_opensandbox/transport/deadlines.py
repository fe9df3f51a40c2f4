"""How long a block of calls may take altogether, whatever they do: connections, answers, waits between two tries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from math import inf
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pytest_opensandbox.transport.timeouts import Timeouts

P = ParamSpec("P")
T = TypeVar("T")

_NOBODY: tuple[Callable[[], None], float] = (lambda: None, inf)
_look: ContextVar[tuple[Callable[[], None], float]] = ContextVar("opensandbox_look", default=_NOBODY)
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


@contextmanager
def looking(look: Callable[[], None], *, every_seconds: float) -> Iterator[None]:
    """Have ``look`` called in the block whenever an answer is not there yet; what it raises ends the wait.

    Args:
        look: may ask a server itself.
        every_seconds: how long nothing has come before each call.
    """
    token = _look.set((look, every_seconds))
    try:
        yield
    finally:
        _look.reset(token)


def look_seconds() -> float:
    """Return how long a wait may be silent until somebody wants to look; infinite where nobody does."""
    return _look.get()[1]


def look_now() -> None:
    """Call what wants to look; while it looks nothing else does."""
    look, _ = _look.get()
    token = _look.set(_NOBODY)
    try:
        look()
    finally:
        _look.reset(token)


class _Transport(Protocol):
    @property
    def timeouts(self) -> Timeouts: ...


class _Calls(Protocol):
    @property
    def _transport(self) -> _Transport: ...


C = TypeVar("C", bound=_Calls)


def one_call(method: Callable[Concatenate[C, P], T]) -> Callable[Concatenate[C, P], T]:
    """Let a method end within the time of one call, with all the answers, retries and waits that it is made of."""

    @wraps(method)
    def bounded(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with time_limit(self._transport.timeouts.call_seconds):
            return method(self, *args, **kwargs)

    return bounded
