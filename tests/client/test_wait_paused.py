"""When a sandbox counts as paused, and when waiting for that makes no sense any more."""

import pytest

from pytest_opensandbox import Client, NotFoundError, PauseError, SandboxFailedError
from tests.scripted_servers import Reply, as_json, serving


def state(name: str, **status: str) -> Reply:
    return as_json({"id": "s1", "status": {"state": name, **status}})


def wait(*replies: Reply, timeout: float = 20):
    with serving(*replies) as server, Client(server.url) as client:
        return client.wait_paused("s1", timeout=timeout)


# The controller sees the request only some time after the server has accepted it.
def test_a_sandbox_that_still_runs_is_looked_at_until_it_is_paused():
    assert wait(state("Running"), state("Running"), state("Pausing"), state("Paused")).is_paused


@pytest.mark.parametrize("failure", [Reply(503), Reply(429), Reply(drop="before")], ids=str)
def test_a_passing_failure_is_waited_out(failure):
    assert wait(state("Pausing"), failure, *[failure] * bool(failure.drop), state("Paused")).is_paused


def test_a_pause_that_failed_is_told_as_soon_as_the_sandbox_runs_again():
    failed = state("Running", reason="RUNNING", message="commit failed")

    with pytest.raises(PauseError, match=r"it runs again \(RUNNING: commit failed\)") as caught:
        wait(state("Pausing"), failed)

    assert (caught.value.state, caught.value.sandbox_id) == ("Running", "s1")


@pytest.mark.parametrize("name", ["Failed", "Terminated", "Stopping"])
def test_a_sandbox_that_ended_is_told(name):
    with pytest.raises(SandboxFailedError, match=name):
        wait(state("Pausing"), state(name))


def test_a_sandbox_that_is_gone_is_told():
    with pytest.raises(NotFoundError):
        wait(as_json({"code": "KUBERNETES::SANDBOX_NOT_FOUND"}, 404))


def test_a_used_up_budget_says_what_came_last():
    with pytest.raises(
        PauseError, match=r"was not paused after .* polls? \(last state Pausing; PAUSING\); raise timeout"
    ):
        wait(*[state("Pausing", reason="PAUSING")] * 50, timeout=0.2)
