"""Every wait of the package, by name: how long between two looks, and when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_result, stop_after_attempt
from tenacity.stop import stop_before_delay
from tenacity.wait import wait_exponential

from pytest_opensandbox.errors import ApiError, TransportError

T = TypeVar("T")
Sleep = Callable[[float], None]

FIRST_WAIT_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 1.0
RETRY_ATTEMPTS = 4
LONGEST_RETRY_WAIT_SECONDS = 60.0
RETRIED_STATUSES = frozenset({429, 502, 503})

_JITTER = 0.25
_LAST_LOOK_SECONDS = 0.05
_looks = wait_exponential(multiplier=FIRST_WAIT_SECONDS, exp_base=1.5, max=LONGEST_WAIT_SECONDS)
_retries = wait_exponential(multiplier=0.25, exp_base=2, max=5.0)


def poll_until_ready(
    look: Callable[[], T | None],
    *,
    budget_seconds: float,
    on_timeout: Callable[[float, int], Exception],
    sleep: Sleep = time.sleep,
) -> T:
    """Look again and again until there is something: after 20 ms, then ever later, at most 1 s apart, with jitter.

    Args:
        look: returns None for "not yet"; what it raises ends the wait.
        budget_seconds: one budget for all looks and waits together; seconds, on a monotonic clock.
        on_timeout: makes the error from the seconds waited and the number of looks.
        sleep: waits; tests give their own.

    Returns:
        What ``look`` returned.

    Raises:
        Exception: what ``on_timeout`` made, when the budget is used up.
    """

    def wait(state: RetryCallState) -> float:
        # The last wait is cut so that the budget ends with a look, not with a sleep.
        step = _looks(state) * random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads load, guards nothing
        remaining = budget_seconds - (state.seconds_since_start or 0.0)
        return step if step < remaining else max(remaining - _LAST_LOOK_SECONDS, _LAST_LOOK_SECONDS)

    def give_up(state: RetryCallState) -> T:
        raise on_timeout(state.seconds_since_start or 0.0, state.attempt_number)

    return Retrying(
        retry=retry_if_result(lambda found: found is None),
        wait=wait,
        stop=stop_before_delay(budget_seconds),
        sleep=sleep,
        retry_error_callback=give_up,
    )(look)  # type: ignore[return-value]  # None is what the policy does not return


def retry_idempotent(call: Callable[[], T], *, sleep: Sleep = time.sleep) -> T:
    """Repeat a call that may be repeated: after a broken connection, 429, 502 and 503, three times at the most.

    A ``Retry-After`` of the server counts, up to 60 s; otherwise the waits are 0.25 s, 0.5 s and 1 s, with jitter.

    Args:
        call: does the same however often it is made.
        sleep: waits; tests give their own.

    Returns:
        What ``call`` returned.

    Raises:
        ApiError: the last answer, or the first that no retry helps.
        TransportError: still no answer, or none in time.
    """
    return Retrying(
        retry=retry_if_exception(_is_passing),
        wait=_retry_wait,
        stop=stop_after_attempt(RETRY_ATTEMPTS),
        sleep=sleep,
        reraise=True,
    )(call)


def _is_passing(error: BaseException) -> bool:
    """Tell trouble that may pass; a call that used up its time is not worth as much again, three times."""
    if isinstance(error, TransportError):
        return not error.timed_out
    return isinstance(error, ApiError) and (
        error.status in RETRIED_STATUSES or error.code.endswith("SANDBOX_DELETE_FAILED")
    )


def _retry_wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = getattr(error, "retry_after_seconds", None)
    wait = _retries(state) if asked is None else min(float(asked), LONGEST_RETRY_WAIT_SECONDS)
    return wait * random.uniform(1, 1 + _JITTER)  # noqa: S311 - spreads load, guards nothing
