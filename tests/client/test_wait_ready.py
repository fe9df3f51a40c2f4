"""When a sandbox counts as ready, and when waiting for it makes no sense any more."""

import socket
import threading
import time

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.errors import (
    ApiError,
    AuthError,
    NotFoundError,
    ReadyTimeoutError,
    SandboxFailedError,
)
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, Timeouts
from tests.scripted_servers import Pause, Reply, Server, as_json, serving

PONG = Reply(200)
RUNNING = as_json({"id": "s1", "status": {"state": "Running"}})
NO_IP = as_json({"code": "KUBERNETES::POD_IP_NOT_AVAILABLE", "message": "no address yet"}, 404)


def state(name: str, **status: str) -> Reply:
    return as_json({"id": "s1", "status": {"state": name, **status}})


class Far(Server):
    """A lifecycle server that is its own sandbox: it hands out its own address as the agent's."""

    def endpoint(self) -> Reply:
        return as_json({"endpoint": f"127.0.0.1:{self.port}/agent"})


def far(*replies: Reply | str):
    server = Far([])
    server.replies = [server.endpoint() if reply == "endpoint" else reply for reply in replies]
    return serving(server=server)


def wait(server: Server, *, timeout: float = 20, known: SandboxResponse | None = None, timeouts=DEFAULT_TIMEOUTS):
    with Client(server.url, timeouts=timeouts) as client:
        return client.wait_ready_endpoint("s1", timeout=timeout, known=known)


def calls(server: Server) -> list[str]:
    return [seen.path.replace("/v1/sandboxes/s1", "") or "state" for seen in server.seen]


def test_ready_is_running_with_an_endpoint_that_answers():
    with far(RUNNING, "endpoint", PONG) as server:
        sandbox, endpoint = wait(server)

    assert (sandbox.id, sandbox.is_running, endpoint.url) == ("s1", True, f"{server.url}/agent")
    assert endpoint.sandbox_id == "s1"
    assert calls(server) == ["state", "/endpoints/44772", "/agent/ping"]


# From create to ready is what a user waits for before each test: no request more than needed.
def test_what_a_create_said_saves_a_request():
    known = SandboxResponse("s1", "Running")
    with far("endpoint", PONG) as server:
        sandbox, _ = wait(server, known=known)

    assert sandbox is known
    assert calls(server) == ["/endpoints/44772", "/agent/ping"]


def test_a_pending_sandbox_is_looked_at_again():
    with far(state("Pending"), state("Allocated"), RUNNING, "endpoint", PONG) as server:
        wait(server, known=SandboxResponse("s1", "Pending"))

    assert calls(server) == ["state", "state", "state", "/endpoints/44772", "/agent/ping"]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(NO_IP, id="no address yet"),
        pytest.param(Reply(502), id="502"),
        pytest.param(Reply(503), id="503"),
        pytest.param(Reply(504), id="504"),
        pytest.param(Reply(429), id="429"),
        pytest.param(Reply(409), id="409"),
    ],
)
def test_a_passing_failure_of_the_endpoint_is_waited_out(failure):
    with far(RUNNING, failure, RUNNING, "endpoint", PONG) as server:
        wait(server)

    assert calls(server)[-1] == "/agent/ping"


@pytest.mark.parametrize("failure", [Reply(502), Reply(404, b"no route yet"), Reply(drop="before")], ids=str)
def test_a_silent_agent_is_waited_for_and_its_endpoint_is_asked_for_once(failure):
    # A dropped connection is tried once more at once, as for every GET.
    failures = [failure, failure] if failure.drop else [failure]
    with far(RUNNING, "endpoint", *failures, RUNNING, PONG) as server:
        wait(server)

    assert calls(server).count("/endpoints/44772") == 1


# Kubernetes puts a pod that it has to start on another machine, and answers with the new address.
def test_an_address_at_which_nobody_answers_is_asked_for_again():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        old = as_json({"endpoint": f"127.0.0.1:{closed.getsockname()[1]}"})
    with far(RUNNING, old, RUNNING, "endpoint", PONG) as server:
        _, endpoint = wait(server, timeouts=Timeouts(address_seconds=0.0))

    assert endpoint.url == f"{server.url}/agent"


def test_an_address_from_before_a_restart_is_not_used():
    with far(RUNNING, "endpoint", Reply(502), state("Pending"), RUNNING, "endpoint", PONG) as server:
        wait(server)

    assert calls(server).count("/endpoints/44772") == 2


def test_a_sandbox_that_stays_pending_is_told_with_the_servers_reason():
    pending = state("Pending", reason="POD_SCHEDULED", message="waiting for an address")
    with serving(*[pending] * 50) as server, pytest.raises(ReadyTimeoutError) as caught:
        wait(server, timeout=0.2)

    assert "(last state Pending; POD_SCHEDULED: waiting for an address)" in str(caught.value)


# The server says Running of a sandbox whose entrypoint ends at once (wire: "create: entrypoint exits 1").
def test_a_sandbox_that_ends_while_its_agent_is_awaited_is_noticed():
    died = state("Failed", reason="CONTAINER_EXITED_ERROR", message="exited with code 1")
    logs = as_json({"delivery": "inline", "content": "boom\n"})
    with far("endpoint", Reply(502), died, logs) as server, pytest.raises(SandboxFailedError) as caught:
        wait(server, known=SandboxResponse("s1", "Running"))

    assert (caught.value.state, caught.value.reason, caught.value.logs) == (
        "Failed",
        "CONTAINER_EXITED_ERROR",
        "boom\n",
    )
    assert "exited with code 1" in str(caught.value)
    assert calls(server)[-1] == "/diagnostics/logs"


@pytest.mark.parametrize("name", ["Failed", "Terminated", "Stopping"])
def test_a_final_state_ends_the_wait_even_without_logs(name):
    with far(state(name), Reply(500)) as server, pytest.raises(SandboxFailedError, match=name) as caught:
        wait(server)

    assert caught.value.logs == ""


# A container that has ended has no ports any more, and the server fails at looking for them.
def test_a_sandbox_that_ended_before_its_agent_was_found_has_failed():
    broken = as_json({"code": "DOCKER::NETWORK_MODE_ENDPOINT_UNAVAILABLE"}, 500)
    with (
        far(broken, state("Failed", message="exited with code 7"), Reply(404)) as server,
        pytest.raises(SandboxFailedError, match="exited with code 7"),
    ):
        wait(server, known=SandboxResponse("s1", "Running"))

    assert calls(server) == ["/endpoints/44772", "state", "/diagnostics/logs"]


# Through a proxy the ping of a dead sandbox does not fail, it hangs; and a test waits for nothing.
def test_a_sandbox_that_ends_at_once_is_noticed_though_its_agent_is_silent():
    held = threading.Event()
    silent = Reply(200, [held], framing="close")
    died = state("Failed", message="exited with code 7")
    with far("endpoint", silent, died, Reply(404)) as server:
        started = time.monotonic()
        with pytest.raises(SandboxFailedError, match="exited with code 7"):
            wait(server, timeout=60, known=SandboxResponse("s1", "Running"))
        waited = time.monotonic() - started
        held.set()

    assert calls(server) == ["/endpoints/44772", "/agent/ping", "state", "/diagnostics/logs"]
    assert DEFAULT_TIMEOUTS.first_ping_seconds < 1
    assert waited < 60 / 4


def test_an_agent_that_is_slow_gets_more_time_with_each_ping():
    held = threading.Event()
    silent = Reply(200, [held], framing="close")
    with far("endpoint", silent, RUNNING, Reply(200, [Pause(0.7)]), RUNNING, PONG) as server:
        wait(server, known=SandboxResponse("s1", "Running"))
        held.set()

    assert calls(server).count("/agent/ping") == 2


def test_what_answers_in_the_agents_place_is_no_question_of_the_network():
    with far("endpoint", *[Reply(502), RUNNING] * 100) as server, pytest.raises(ReadyTimeoutError) as caught:
        wait(server, timeout=0.3, known=SandboxResponse("s1", "Running"))

    assert "(502" in str(caught.value)
    assert "--opensandbox-server-proxy" not in str(caught.value)


def test_only_the_end_of_long_logs_is_shown():
    logs = Reply(200, b"x" * 100_000 + b"the end", {"Content-Type": "text/plain"})
    with far(state("Failed"), logs) as server, pytest.raises(SandboxFailedError) as caught:
        wait(server)

    assert len(caught.value.logs) == 4_000
    assert caught.value.logs.endswith("the end")


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        pytest.param([Reply(401)], AuthError, id="401 for the state"),
        pytest.param([RUNNING, Reply(403)], AuthError, id="403 for the endpoint"),
        pytest.param([RUNNING, "endpoint", Reply(401)], AuthError, id="401 for the ping"),
        pytest.param([as_json({"code": "DOCKER::SANDBOX_NOT_FOUND"}, 404)], NotFoundError, id="no such sandbox"),
        pytest.param(
            [RUNNING, as_json({"code": "DOCKER::SANDBOX_NOT_FOUND"}, 404)], NotFoundError, id="gone meanwhile"
        ),
        pytest.param([RUNNING, Reply(500), RUNNING], ApiError, id="500 for the endpoint of what runs"),
    ],
)
def test_what_no_waiting_mends_is_raised_at_once(replies, kind):
    with far(*replies) as server, pytest.raises(kind):
        wait(server)

    assert len(server.seen) == len(replies)


def test_a_used_up_budget_says_what_was_wrong_and_what_to_do():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    replies = [RUNNING, as_json({"endpoint": address}), *[RUNNING] * 100]
    with serving(*replies) as server, pytest.raises(ReadyTimeoutError) as caught:
        wait(server, timeout=0.3)

    text = str(caught.value)
    assert caught.value.last_state == "Running"
    assert caught.value.attempts > 2
    assert f"http://{address}/ping" in text
    assert "--opensandbox-server-proxy" in text
    assert "host_ip" in text


# A server that accepts and says nothing must not hold a wait of a second for the half minute of an ordinary request.
def test_the_budget_holds_also_against_a_server_that_is_silent():
    held = threading.Event()
    replies = [Reply(200, [held], framing="close")] * 20
    with serving(*replies) as server:
        with pytest.raises(ReadyTimeoutError, match="no byte within"):
            wait(server, timeout=0.5)
        held.set()


def test_wait_ready_returns_the_sandbox():
    with far(RUNNING, "endpoint", PONG) as server, Client(server.url) as client:
        assert client.wait_ready("s1", timeout=20).is_running
