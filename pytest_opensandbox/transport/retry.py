"""Every wait and retry policy, and the deadlines over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial, wraps
from math import inf
from typing import Any, Concatenate, ParamSpec, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_result
from tenacity.wait import wait_exponential

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ApiError, ConfigError, TransportError
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, RequestTimeout, Timeouts

RETRY_ATTEMPTS = 4
RETRIED_STATUSES = frozenset({429, 502, 503})
PORT_RACE_TRIES = 3

LONGEST_SECONDS = 366 * 86_400.0
"""Longest time limit that a caller may set."""

P = ParamSpec("P")
T = TypeVar("T")

_JITTER = 0.25
_START_FAILED = "SANDBOX_START_FAILED"
# Docker's messages where two sandboxes got the same port of the host.
_PORT_RACES = ("port is already allocated", "ports are not available", "address already in use")
# Codes of a server that has not begun to create anything.
_NOT_STARTED = ("INITIALIZATION_ERROR", "TENANT_PROVIDER_UNAVAILABLE")
_LAST_POLL_SECONDS = 0.05
_is_retrying: ContextVar[bool] = ContextVar("opensandbox_is_retrying", default=False)


@dataclass(frozen=True)
class Deadline:
    """The end of a block of calls, and a probe to make while they wait for a response."""

    ends_at: float = inf
    """What ``clock.monotonic`` reads at the end."""
    probe: Callable[[], None] | None = None
    """Called while no byte comes; what it raises ends the wait."""
    probe_seconds: float = inf
    """Seconds without a byte before each probe."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the end; below 0 after it, infinite where there is none."""
        return self.ends_at - monotonic()

    def cut(self, timeout: RequestTimeout) -> RequestTimeout:
        """Return the limits of a request, none of them longer than what is left."""
        left = max(round(self.seconds_left, 2), 0.01)
        return min(timeout[0], left), min(timeout[1], left)

    def run_probe(self) -> None:
        """Call the probe, which is not probed itself."""
        if self.probe is not None:
            with _applied(replace(self, probe=None, probe_seconds=inf)):
                self.probe()


_NO_DEADLINE = Deadline()
_deadline: ContextVar[Deadline] = ContextVar("opensandbox_deadline", default=_NO_DEADLINE)


def current_deadline() -> Deadline:
    """Return the deadline of the calls that this thread makes now."""
    return _deadline.get()


def check_seconds(field: str, value: float, *, most: float = LONGEST_SECONDS, rule: str = "") -> None:
    """Refuse a value that is not a time limit in seconds.

    Args:
        field: the argument's name.
        value: what a caller gave.
        most: the longest time.
        rule: what it must be, as a phrase that follows "must"; default the bounds.

    Raises:
        ConfigError: not a number, not more than 0, or more than ``most``.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
        raise ConfigError(field, rule or f"be seconds, more than 0 and at most {most:,.0f}", value)


@contextmanager
def time_limit(
    seconds: float = inf, *, probe: Callable[[], None] | None = None, probe_seconds: float = inf
) -> Iterator[None]:
    """Let every request of this thread in the block end in time; of two limits the nearer counts.

    Args:
        seconds: from now on.
        probe: called while a response does not come; what it raises ends the wait. It may send requests itself.
        probe_seconds: seconds without a byte before each probe.
    """
    outer = _deadline.get()
    deadline = replace(outer, ends_at=min(outer.ends_at, monotonic() + seconds))
    with _applied(replace(deadline, probe=probe, probe_seconds=probe_seconds) if probe else deadline):
        yield


@contextmanager
def _applied(deadline: Deadline) -> Iterator[None]:
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def one_call(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Let a method of the client end within the time of one call, with all its requests, retries and waits."""

    @wraps(method)
    def limited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with time_limit(self._transport.timeouts.call_seconds):
            return method(self, *args, **kwargs)

    return limited


def poll_until_ready(
    poll: Callable[[], T | None],
    *,
    budget_seconds: float,
    on_timeout: Callable[[float, int], Exception],
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> T:
    """Poll until there is a result. Waits begin at 20 ms and grow to 1 s, with jitter.

    Args:
        poll: returns None for "not yet"; what it raises ends the wait.
        budget_seconds: one budget for all polls and waits; seconds, on a monotonic clock.
        on_timeout: makes the error from the seconds waited and the number of polls.
        timeouts: the lengths of the waits.

    Returns:
        What ``poll`` returned.

    Raises:
        Exception: what ``on_timeout`` made, when the budget is used up.
    """
    started = monotonic()
    polls = wait_exponential(multiplier=timeouts.first_poll_seconds, exp_base=1.5, max=timeouts.longest_poll_seconds)

    def wait(state: RetryCallState) -> float:
        # The last wait is shortened so that the budget ends with a poll, not with a sleep.
        step = polls(state) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads load, guards nothing
        remaining = budget_seconds - (monotonic() - started)
        return step if step < remaining else max(remaining - _LAST_POLL_SECONDS, _LAST_POLL_SECONDS)

    def give_up(state: RetryCallState) -> T:
        raise on_timeout(monotonic() - started, state.attempt_number)

    return Retrying(
        retry=retry_if_result(lambda found: found is None),
        wait=wait,
        stop=lambda state: monotonic() - started + state.upcoming_sleep >= budget_seconds,
        sleep=timeouts.sleep,
        retry_error_callback=give_up,
    )(poll)  # type: ignore[return-value]  # None is what the policy does not return


def retry_idempotent(call: Callable[[], T], *, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> T:
    """Repeat an idempotent call after a broken connection, 429, 502 and 503, at most three times.

    The waits are 0.25 s, 0.5 s and 1 s, with jitter, or what the server asks for with ``Retry-After``, up to 60 s.

    Args:
        call: has the same effect when it is repeated.
        timeouts: the lengths of the waits.

    Returns:
        What ``call`` returned.

    Raises:
        ApiError: the last response, or the first for which no retry helps.
        TransportError: no response, or none in time.
    """
    # Only the outer one of two nested retries repeats, or their attempts would multiply.
    if _is_retrying.get():
        return call()
    token = _is_retrying.set(True)
    retried: list[BaseException | None] = []
    try:
        return Retrying(
            retry=retry_if_exception(_is_transient),
            wait=partial(_retry_wait, timeouts),
            stop=lambda state: (
                state.attempt_number >= RETRY_ATTEMPTS or state.upcoming_sleep >= current_deadline().seconds_left
            ),
            before_sleep=lambda state: retried.append(_error(state)),
            sleep=timeouts.sleep,
            reraise=True,
        )(call)
    except TransportError as exc:
        # The last attempt was not sent, but one before it may have been.
        exc.unsent = exc.unsent and all(isinstance(error, TransportError) and error.unsent for error in retried)
        raise
    finally:
        _is_retrying.reset(token)


def retry_create(
    call: Callable[[], T],
    *,
    budget_seconds: float,
    before_wait: Callable[[ApiError], None],
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> T:
    """Repeat a create that has certainly created nothing, and no other.

    That is so where the server is full (429) or not up yet, until the budget is used up. It is also so where two
    sandboxes raced for one port of the host, which is tried three times. A ``Retry-After`` counts, up to 60 s.

    Args:
        call: creates.
        budget_seconds: when to give up on a full server; seconds from its first refusal on.
        before_wait: called with the refusal before each wait.
        timeouts: the lengths of the waits.

    Returns:
        What ``call`` returned.

    Raises:
        ApiError: the last response, or the first after which something may have been created.
        TransportError: no response.

    Source: opensandbox_server 1.1.1, which undoes what it began before it answers in these ways.
    """
    # Seconds of the first call. The server may have pulled an image, or waited for a free place.
    first_call: list[float] = []
    started = monotonic()

    def stop(state: RetryCallState) -> bool:
        spent = monotonic() - started
        first_call[:] = first_call or [spent]
        if _is_port_race(_error(state)):
            return state.attempt_number >= PORT_RACE_TRIES
        return spent - first_call[0] + state.upcoming_sleep >= budget_seconds

    def notify(state: RetryCallState) -> None:
        before_wait(_error(state))  # type: ignore[arg-type]  # only an ApiError is retried

    return Retrying(
        retry=retry_if_exception(_created_nothing),
        wait=partial(_retry_wait, timeouts),
        stop=stop,
        before_sleep=notify,
        sleep=timeouts.sleep,
        reraise=True,
    )(call)


def _created_nothing(error: BaseException) -> bool:
    if not isinstance(error, ApiError):
        return False
    not_started = error.status == 503 and error.code.endswith(_NOT_STARTED)
    return error.status == 429 or not_started or _is_port_race(error)


def _is_port_race(error: BaseException | None) -> bool:
    if not isinstance(error, ApiError) or error.status != 500 or not error.code.endswith(_START_FAILED):
        return False
    return any(words in error.message.lower() for words in _PORT_RACES)


def _is_transient(error: BaseException) -> bool:
    """Return whether a retry may help; a call that used up its time would take as long again, three times."""
    if isinstance(error, TransportError):
        return not error.timed_out
    return isinstance(error, ApiError) and (
        error.status in RETRIED_STATUSES or error.code.endswith("SANDBOX_DELETE_FAILED")
    )


def _retry_wait(timeouts: Timeouts, state: RetryCallState) -> float:
    usual = wait_exponential(multiplier=timeouts.first_retry_seconds, exp_base=2, max=timeouts.longest_retry_seconds)
    asked = getattr(_error(state), "retry_after_seconds", None)
    wait = usual(state) if asked is None else min(float(asked), timeouts.longest_retry_after_seconds)
    return wait * random.uniform(1, 1 + _JITTER)  # noqa: S311 - spreads load, guards nothing


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
