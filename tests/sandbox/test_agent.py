"""Calls follow a sandbox's agent to a new address, run at most once, and are recorded however they end."""

import socket

import pytest

from pytest_opensandbox import Client, CommandLostError, Endpoint, Sandbox, SandboxResponse, TransportError
from pytest_opensandbox.errors import SharedAgentError
from pytest_opensandbox.sandbox.agent import may_be_shared
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, ReadySandbox
from pytest_opensandbox.sandbox.tracking import RunTags
from tests.runner_reports import read_request
from tests.scripted_servers import OneSandboxServer, Reply, as_events, as_json, as_lines, reported, serving

INIT = {"type": "init", "text": "c1"}
NO_IP = as_json({"code": "KUBERNETES::POD_IP_NOT_AVAILABLE", "message": "no address"}, 404)
GONE = as_json({"code": "KUBERNETES::SANDBOX_NOT_FOUND", "message": "no such sandbox"}, 404)


def refused_as(other: str):
    return lambda seen: as_lines(f"{read_request(seen.json)['n']} refuse {other}")


@pytest.fixture
def nowhere() -> str:
    """The address of a pod that is no longer there."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def sandbox_at():
    """Make a handle on the one sandbox of a server, whose agent was at an address."""
    clients = []

    def make(server: OneSandboxServer, url: str) -> Sandbox:
        clients.append(Client(server.url))
        lifecycle = Lifecycle(clients[-1], tags=RunTags("run"), ready_timeout=10)
        return Sandbox(
            lifecycle, ReadySandbox(SandboxResponse("s1", "Running"), Endpoint(url, sandbox_id="s1"), "image")
        )

    yield make
    for client in clients:
        client.close()


def test_a_command_that_was_not_sent_runs_where_the_agent_is_now(sandbox_at, nowhere):
    with serving(server=OneSandboxServer(command=[reported(stdout=b"hi\n")])) as server:
        sandbox = sandbox_at(server, nowhere)

        assert sandbox.run("echo hi").stdout == "hi\n"

    assert server.calls == ["endpoint", "state", "endpoint", "ping", "upload", "command"]
    note, command = sandbox.history
    assert (note.outcome, note.is_note, command.outcome) == ("moved", True, "exit 0")
    assert f"from <Endpoint {nowhere}> to <Endpoint {server.url}/agent>" in note.command


def test_a_copy_is_done_where_the_agent_is_now(sandbox_at, nowhere):
    info = as_json({"/x": {"path": "/x", "size": 2}})
    with serving(server=OneSandboxServer(info=[info, info])) as server:
        sandbox = sandbox_at(server, nowhere)
        sandbox.put(b"hi", "/x")

    assert server.calls.count("upload") == 1
    assert [(record.command, record.outcome) for record in sandbox.history if record.is_copy] == [
        ("put 2 bytes -> /x", "done")
    ]


def test_an_agent_that_is_away_for_a_moment_is_waited_for(sandbox_at, nowhere):
    server = OneSandboxServer(endpoint=[NO_IP, NO_IP], command=[reported(stdout=b"hi\n")])
    with serving(server=server):
        assert sandbox_at(server, nowhere).run("echo hi").stdout == "hi\n"

    assert server.calls.count("command") == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="the same address"),
        pytest.param(GONE, id="no such sandbox"),
        pytest.param(Reply(500), id="a server that fails"),
    ],
)
def test_an_agent_that_is_nowhere_else_is_asked_for_once(sandbox_at, nowhere, answer):
    server = OneSandboxServer(endpoint=[answer or as_json({"endpoint": nowhere.removeprefix("http://")})])
    with serving(server=server), pytest.raises(TransportError, match="refused") as caught:
        sandbox_at(server, nowhere).run("true")

    assert caught.value.unsent
    assert server.calls.count("endpoint") == 1
    assert "command" not in server.calls


# Whether it ran cannot be known, so it is not run again; the next one must not suffer from that, however.
def test_a_command_that_may_have_run_is_final_and_the_next_finds_the_agent(sandbox_at):
    with (
        serving(server=OneSandboxServer(command=[Reply(drop="before")] * 50)) as old,
        serving(server=OneSandboxServer(command=[reported(stdout=b"hi\n")])) as server,
    ):
        sandbox = sandbox_at(server, f"{old.url}/agent")

        with pytest.raises(TransportError, match="closed without a response") as caught:
            sandbox.run("first")
        second = sandbox.run("second")

    assert not caught.value.unsent
    assert (old.calls.count("command"), second.stdout) == (1, "hi\n")
    assert [call for call in server.calls if call == "command"] == ["command"]


def test_a_command_that_was_lost_on_its_way_is_not_run_again(sandbox_at):
    server = OneSandboxServer(command=[as_events(INIT, drop="after")])
    with serving(server=server), pytest.raises(CommandLostError):
        sandbox_at(server, f"{server.url}/agent").run("true")

    # The second is the order to end it, should it still run.
    assert [seen.method for seen in server.seen if seen.path.endswith("/command")] == ["POST", "DELETE"]
    assert "endpoint" not in server.calls


# An address of a cluster is given to another pod when its own has ended.
def test_an_address_that_belongs_to_another_sandbox_by_now_is_left(sandbox_at):
    with (
        serving(server=OneSandboxServer(command=[refused_as("s2")])) as old,
        serving(server=OneSandboxServer(command=[reported(stdout=b"hi\n")])) as server,
    ):
        assert sandbox_at(server, f"{old.url}/agent").run("echo hi").stdout == "hi\n"

    assert server.calls.count("command") == 1


def test_an_agent_that_really_is_shared_is_refused(sandbox_at):
    server = OneSandboxServer(command=[refused_as("s2")])
    answered = pytest.raises(SharedAgentError, match="requests to sandbox s1 reach the agent of sandbox s2")
    with serving(server=server), answered as caught:
        sandbox_at(server, f"{server.url}/agent").run("true")

    assert (caught.value.sandbox_id, caught.value.other_id) == ("s1", "s2")
    assert server.calls == ["upload", "command", "endpoint"]


@pytest.mark.parametrize(
    ("url", "headers", "shared"),
    [
        pytest.param("http://192.0.2.1:44772", {}, True, id="host network"),
        pytest.param("http://h/v1/sandboxes/s1/proxy/44772", {}, True, id="server proxy"),
        pytest.param("http://192.0.2.1:40001/proxy/44772", {}, False, id="bridge network"),
        pytest.param("http://127.0.0.1:35001", {}, False, id="embedded"),
        pytest.param("http://gateway:44772", {"OpenSandbox-Ingress-To": "s1-44772"}, False, id="gateway"),
        pytest.param("http://s1-44772.example", {}, False, id="wildcard gateway"),
    ],
)
def test_an_address_shows_whether_its_agent_may_be_shared(url, headers, shared):
    assert may_be_shared(Endpoint(url, headers)) is shared
