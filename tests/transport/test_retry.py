"""The named waits: how they grow, when they end, and what they do not repeat."""

import threading

import pytest

from pytest_opensandbox.errors import (
    ApiError,
    AuthError,
    ConflictError,
    NotFoundError,
    ReadyTimeoutError,
    TransportError,
)
from pytest_opensandbox.transport.retry import (
    PORT_RACE_TRIES,
    RETRY_ATTEMPTS,
    poll_until_ready,
    retry_create,
    retry_idempotent,
)
from pytest_opensandbox.transport.timeouts import Timeouts


class Naps:
    """Records the lengths of sleeps instead of sleeping."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Script:
    """A call that gives, or raises, one outcome after the other; the last one for ever."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    def __call__(self) -> object:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def expired(waited: float, attempts: int) -> Exception:
    return ReadyTimeoutError(sandbox_id="s", waited_seconds=waited, attempts=attempts)


def no_answer(*, timed_out: bool = False, unsent: bool = False) -> TransportError:
    return TransportError("broken", method="GET", url="http://x", timed_out=timed_out, unsent=unsent)


def test_a_first_look_that_finds_something_does_not_wait():
    naps = Naps()

    found = poll_until_ready(Script("ready"), budget_seconds=60, on_timeout=expired, timeouts=Timeouts(sleep=naps))

    assert (found, naps.seconds) == ("ready", [])


def test_waits_begin_at_about_20_ms_grow_and_stay_under_a_second():
    naps = Naps()

    poll_until_ready(
        Script(*[None] * 30, "ready"), budget_seconds=600, on_timeout=expired, timeouts=Timeouts(sleep=naps)
    )

    assert 0.015 <= naps.seconds[0] <= 0.02
    assert max(naps.seconds) <= 1.0
    assert min(naps.seconds[-5:]) >= 0.75
    assert naps.seconds[10] > 5 * naps.seconds[0]


def test_waits_have_jitter_so_that_workers_do_not_ask_in_step():
    runs = []
    for _ in range(2):
        naps = Naps()
        poll_until_ready(
            Script(*[None] * 20, "ready"), budget_seconds=600, on_timeout=expired, timeouts=Timeouts(sleep=naps)
        )
        runs.append(naps.seconds)

    assert runs[0] != runs[1]


def test_a_used_up_budget_raises_what_the_caller_made_of_it():
    poll = Script(None)

    with pytest.raises(ReadyTimeoutError) as caught:
        poll_until_ready(poll, budget_seconds=0.3, on_timeout=expired)

    assert caught.value.attempts == poll.calls > 3
    assert caught.value.waited_seconds > 0.15


def test_a_budget_ends_with_a_look_and_not_with_a_sleep():
    naps = Naps()

    # With sleeps that take no time, the waits of one round show how the budget is cut up.
    with pytest.raises(ReadyTimeoutError):
        poll_until_ready(
            Script(*[None] * 4, expired(0, 5)), budget_seconds=0.06, on_timeout=expired, timeouts=Timeouts(sleep=naps)
        )

    assert all(nap < 0.06 for nap in naps.seconds)


def test_what_a_look_raises_ends_the_wait_at_once():
    poll = Script(None, AuthError(401), "never")

    with pytest.raises(AuthError):
        poll_until_ready(poll, budget_seconds=60, on_timeout=expired, timeouts=Timeouts(sleep=Naps()))

    assert poll.calls == 2


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(no_answer(), id="broken connection"),
        pytest.param(ApiError(429), id="429"),
        pytest.param(ApiError(502), id="502"),
        pytest.param(ApiError(503), id="503"),
        pytest.param(ApiError(500, code="DOCKER::SANDBOX_DELETE_FAILED"), id="failed delete"),
    ],
)
def test_a_transient_failure_is_retried(failure):
    call = Script(failure, failure, "done")

    assert retry_idempotent(call, timeouts=Timeouts(sleep=Naps())) == "done"
    assert call.calls == 3


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(no_answer(timed_out=True), id="time-out, which may take as long again"),
        pytest.param(ApiError(400), id="400"),
        pytest.param(AuthError(401), id="401"),
        pytest.param(NotFoundError(404), id="404"),
        pytest.param(ApiError(500), id="500"),
        pytest.param(ApiError(504), id="504"),
    ],
)
def test_a_lasting_failure_is_not_retried(failure):
    call = Script(failure, "never")

    with pytest.raises(type(failure)):
        retry_idempotent(call, timeouts=Timeouts(sleep=Naps()))

    assert call.calls == 1


def test_the_last_error_comes_out_when_retries_do_not_help():
    call = Script(ApiError(502), ApiError(502), ApiError(502), ApiError(503, message="last"))
    naps = Naps()

    with pytest.raises(ApiError, match="last"):
        retry_idempotent(call, timeouts=Timeouts(sleep=naps))

    assert call.calls == RETRY_ATTEMPTS
    assert [round(nap * 2) / 2 for nap in naps.seconds][-1] in (1.0, 1.5)


@pytest.mark.parametrize(
    ("first", "unsent"),
    [
        pytest.param(no_answer(), False, id="it broke off"),
        pytest.param(ApiError(502), False, id="a gateway answered"),
        pytest.param(no_answer(unsent=True), True, id="it was not sent either"),
    ],
)
def test_a_retry_that_was_not_sent_does_not_hide_one_that_was(first, unsent):
    call = Script(first, no_answer(unsent=True))

    with pytest.raises(TransportError) as caught:
        retry_idempotent(call, timeouts=Timeouts(sleep=Naps()))

    assert caught.value.unsent is unsent


def test_one_retry_around_another_does_not_multiply():
    call = Script(no_answer())

    with pytest.raises(TransportError):
        retry_idempotent(
            lambda: retry_idempotent(call, timeouts=Timeouts(sleep=Naps())), timeouts=Timeouts(sleep=Naps())
        )

    assert call.calls == RETRY_ATTEMPTS


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        pytest.param(3.0, 3.0, 3.75, id="seconds"),
        pytest.param(0.0, 0.0, 0.0, id="none"),
        pytest.param(86_400.0, 60.0, 75.0, id="a day is capped"),
    ],
)
def test_retry_after_is_honoured_within_reason(asked, least, most):
    naps = Naps()

    retry_idempotent(Script(ApiError(429, retry_after_seconds=asked), "done"), timeouts=Timeouts(sleep=naps))

    assert least <= naps.seconds[0] <= most


FULL = ApiError(429, code="KUBERNETES::POOL_CAPACITY_EXHAUSTED")
PORT_RACE = ApiError(500, code="DOCKER::SANDBOX_START_FAILED", message="Bind failed: port is already allocated")


def create(call, *, naps=None, budget=60.0, refusals=None):
    return retry_create(
        call,
        budget_seconds=budget,
        before_wait=([] if refusals is None else refusals).append,
        timeouts=Timeouts(sleep=naps or Naps()),
    )


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(FULL, id="full"),
        pytest.param(PORT_RACE, id="a port race"),
        pytest.param(ApiError(503, code="DOCKER::INITIALIZATION_ERROR"), id="not up yet"),
        pytest.param(ApiError(503, code="TENANT_PROVIDER_UNAVAILABLE"), id="cannot identify the key"),
    ],
)
def test_a_create_that_made_nothing_is_repeated_with_notice(failure):
    call, refusals = Script(failure, failure, "made"), []

    assert create(call, refusals=refusals) == "made"
    assert (call.calls, refusals) == (3, [failure, failure])


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(no_answer(), id="no answer"),
        pytest.param(ApiError(502), id="502"),
        pytest.param(ApiError(503), id="503 that does not say why"),
        pytest.param(ApiError(503, code="DOCKER::SANDBOX_EXECD_START_FAILED"), id="503 in the middle"),
        pytest.param(ApiError(504), id="504"),
        pytest.param(ApiError(500), id="500"),
        pytest.param(ApiError(500, code="DOCKER::SANDBOX_START_FAILED", message="no such file"), id="another failure"),
        pytest.param(ConflictError(409), id="409"),
        pytest.param(ApiError(403, code="KUBERNETES::QUOTA_EXCEEDED"), id="a quota, which no waiting mends"),
    ],
)
def test_a_create_that_may_have_made_something_is_never_repeated(failure):
    call = Script(failure, "never")

    with pytest.raises(type(failure)):
        create(call)

    assert call.calls == 1


def test_a_port_race_is_run_three_times_with_jitter():
    call, naps = Script(PORT_RACE), Naps()

    with pytest.raises(ApiError, match="port is already allocated"):
        create(call, naps=naps)

    assert call.calls == PORT_RACE_TRIES == 3
    assert all(nap > 0 for nap in naps.seconds)
    assert len(set(naps.seconds)) == 2


def test_a_full_server_is_asked_until_the_budget_is_used_up():
    call = Script(ApiError(429, retry_after_seconds=0.01))

    with pytest.raises(ApiError, match="429"):
        retry_create(call, budget_seconds=0.3, before_wait=lambda refusal: None)

    assert call.calls > 5


# A server with a pool waits for a free place itself, half a minute, before it refuses and asks for as much again.
def test_the_budget_begins_with_the_first_refusal():
    clock = iter([True, False])

    def call():
        if next(clock):
            threading.Event().wait(0.3)
            raise ApiError(429, retry_after_seconds=0.1)
        return "made"

    assert retry_create(call, budget_seconds=0.25, before_wait=lambda refusal: None) == "made"


def test_a_wait_that_the_budget_does_not_hold_is_not_begun():
    call, naps = Script(ApiError(429, retry_after_seconds=30)), Naps()

    with pytest.raises(ApiError, match="429"):
        create(call, naps=naps, budget=10)

    assert (call.calls, naps.seconds) == (1, [])
