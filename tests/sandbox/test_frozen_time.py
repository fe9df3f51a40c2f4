"""A test may freeze time: sandboxes live on, and their limits count real time."""

import threading
import time
from contextlib import contextmanager

import freezegun
import pytest
import time_machine

from pytest_opensandbox import Client, CommandTimeoutError, ReadyTimeoutError, ServiceTimeoutError
from pytest_opensandbox.clock import monotonic, wall_time
from tests.scripted_servers import OneSandboxServer, as_json, serving

PENDING = as_json({"id": "s1", "status": {"state": "Pending"}})


@contextmanager
def travelling(day):
    with time_machine.travel(day, tick=False):
        yield


@pytest.fixture(params=[freezegun.freeze_time, travelling], ids=["freezegun", "time-machine"])
def freeze(request):
    """Freeze time at a day."""
    return request.param


@pytest.mark.parametrize("day", ["2012-01-14", "2042-01-14"])
def test_the_clocks_go_on(freeze, day):
    before = monotonic(), wall_time()
    with freeze(day):
        threading.Event().wait(0.05)

        assert 0.04 < monotonic() - before[0] < 5
        assert 0.02 < wall_time() - before[1] < 5


def test_a_time_limit_ends_a_command(freeze, shared_sandbox):
    with freeze("2012-01-14"), pytest.raises(CommandTimeoutError, match="ended after 1 s"):
        shared_sandbox.run("sleep 20", timeout=1)


def test_a_sandbox_lives_its_life(freeze, sandbox_factory):
    with freeze("2012-01-14"), sandbox_factory() as sandbox:
        sandbox.put(b"x", "/workspace/x")
        result = sandbox.run("cat x; sleep 0.1")

        assert (result.stdout, sandbox.get("/workspace/x")) == ("x", b"x")
        assert 0.1 <= result.duration < 30
        with pytest.raises(ServiceTimeoutError):
            sandbox.wait_for_port(8399, timeout=0.5)


def test_a_sandbox_that_does_not_get_ready_is_given_up(freeze):
    with (
        serving(server=OneSandboxServer(state=[PENDING] * 1000, endpoint=[PENDING] * 1000)) as server,
        Client(server.url) as client,
        freeze("2012-01-14"),
        pytest.raises(ReadyTimeoutError),
    ):
        client.wait_ready("s1", timeout=0.5)


def test_the_end_of_a_lease_is_sent_in_real_time(freeze):
    server = OneSandboxServer()
    with serving(server=server), Client(server.url) as client, freeze("2012-01-14"):
        client.renew("s1", 600)

    sent = server.seen[-1].json["expiresAt"]
    assert sent[:4] == time.strftime("%Y")
