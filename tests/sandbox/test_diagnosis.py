"""The error for a sandbox that has ended says so, and why, instead of naming a connection that broke."""

import pickle

import pytest

from pytest_opensandbox import (
    ApiError,
    Client,
    CommandLostError,
    CommandStartError,
    Endpoint,
    NotFoundError,
    ProtocolError,
    Sandbox,
    SandboxGoneError,
    SandboxOpts,
    TransportError,
)
from pytest_opensandbox.sandbox.diagnosis import diagnose, may_be_gone
from pytest_opensandbox.sandbox.history import record_end
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import RunTags
from pytest_opensandbox.servers.server_process import start_embedded
from pytest_opensandbox.transport.timeouts import Timeouts
from tests.scripted_servers import OneSandboxServer, Reply, as_json, serving

KILL_ALL = "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || [ $p = $PPID ] || kill -9 $p; done; kill -9 $PPID"
USES = [
    pytest.param(lambda sandbox, path: sandbox.run("true"), id="run"),
    pytest.param(lambda sandbox, path: sandbox.run("true", on_stdout=print), id="run with callbacks"),
    pytest.param(lambda sandbox, path: sandbox.put("x", "/tmp/x"), id="put"),
    pytest.param(lambda sandbox, path: sandbox.get("/etc/hostname"), id="get"),
    pytest.param(lambda sandbox, path: sandbox.get("/etc/apt", path), id="get of a tree"),
    pytest.param(lambda sandbox, path: sandbox.endpoint(80), id="endpoint"),
]


@pytest.fixture(scope="module")
def server():
    """A server of its own, whose sandboxes may die."""
    with start_embedded() as server:
        yield server


@pytest.fixture(params=[False, True], ids=["direct", "server proxy"])
def client(request, server):
    """The client that the handle has."""
    with Client(server.url, server.api_key, use_server_proxy=request.param) as client:
        yield client


@pytest.fixture
def mortal(client):
    """A sandbox that a test may end."""
    lifecycle = Lifecycle(client, tags=RunTags("endings"), ready_timeout=30)
    sandbox = Sandbox.launch(lifecycle, SandboxOpts(image="host"))
    yield sandbox
    lifecycle.close()
    sandbox.close()


def expire(client, sandbox):
    """Let a sandbox's time run out, and return when it is gone."""
    client.renew(sandbox.id, 1.5)
    while client.list_sandboxes(sandbox.metadata):
        pass


@pytest.mark.parametrize("use", USES)
def test_a_sandbox_whose_time_was_up_has_expired(client, mortal, use, tmp_path):
    expire(client, mortal)

    with pytest.raises(SandboxGoneError, match=r"is gone, expired; its time was up at [\d:]+ UTC;.*-lease"):
        use(mortal, tmp_path / "tree")

    assert mortal.state == "gone (expired)"
    assert mortal.history[-1].command == record_end("expired").command


@pytest.mark.parametrize("use", USES)
def test_a_sandbox_that_another_client_deleted_is_reported_as_deleted(mortal, use, server, tmp_path):
    with Client(server.url, server.api_key) as other:
        other.delete_sandbox(mortal.id)

    with pytest.raises(SandboxGoneError, match=r"is gone, deleted by someone; \d+ s before its time was up") as caught:
        use(mortal, tmp_path / "tree")

    assert (caught.value.sandbox_id, caught.value.state) == (mortal.id, "")


# The server still knows the address of a port, so the endpoint is not among these.
@pytest.mark.parametrize("use", USES[:-1])
def test_a_sandbox_whose_first_process_died_has_crashed(mortal, use, tmp_path):
    kill_first_process(mortal)

    with pytest.raises(SandboxGoneError, match=r"is gone, (crashed: exit 137|ended: exit)") as caught:
        use(mortal, tmp_path / "tree")

    assert caught.value.state in ("Failed", "Terminated")


def kill_first_process(sandbox):
    """Have the sandbox's agent, without which it ends, killed from within."""
    with pytest.raises(SandboxGoneError):
        sandbox.run(
            "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || [ $p = $PPID ] || kill -9 $p; done; kill -9 $PPID"
        )


def state(word, message=""):
    return as_json({"id": "s1", "status": {"state": word, "reason": "CONTAINER_EXITED_ERROR", "message": message}})


def diagnostics(text):
    """A reply with diagnostics as Docker's server sends them."""
    return as_json({"delivery": "inline", "content": text})


EVENTS = "/v1/sandboxes/s1/diagnostics/events"
KILLED = "Sandbox container exited with code 137."


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param({"state": [state("Failed", KILLED)]}, "crashed: exit 137", id="killed"),
        pytest.param(
            {"state": [state("Failed", KILLED)], EVENTS: [diagnostics("Event:      OOMKilled - container was killed")]},
            "crashed: exit 137, out of memory",
            id="out of memory, reported by Docker",
        ),
        pytest.param(
            {"state": [state("Failed", "container execd: OOMKilled, exit code 137")]},
            "crashed: exit 137, out of memory",
            id="out of memory, reported by Kubernetes",
        ),
        pytest.param(
            {"state": [state("Terminated")], EVENTS: [diagnostics("Exit Code:  0")]}, "ended: exit 0", id="ended"
        ),
        pytest.param({"state": [state("Failed")]}, "crashed: CONTAINER_EXITED_ERROR", id="no code"),
        pytest.param({"state": [state("Stopping")]}, "deleted by someone", id="being deleted"),
        pytest.param({"state": [as_json({}, 404)]}, "deleted by someone", id="not known any more"),
        pytest.param({"state": [state("Running"), state("Failed", KILLED)]}, "crashed: exit 137", id="not at once"),
    ],
)
def test_the_reason_for_the_end_is_a_few_words(script, why):
    server = OneSandboxServer(logs=[diagnostics("the last line")], **script)
    with serving(server=server), Client(server.url) as client:
        gone = diagnose(client, Endpoint("http://127.0.0.1:1", sandbox_id="s1"))

    assert gone.why == why
    assert ("the last line" in str(gone)) == (gone.state in ("Failed", "Terminated"))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param({}, id="it runs and its agent does not answer"),
        pytest.param({"state": [state("Paused")]}, id="it is paused"),
        pytest.param({"state": [as_json({}, 401)]}, id="the key is refused"),
        pytest.param({"state": [Reply(200, b"nonsense")]}, id="the answer is no JSON"),
    ],
)
def test_a_sandbox_that_may_live_is_not_reported_gone(script):
    server = OneSandboxServer(**script)
    with serving(server=server), Client(server.url, timeouts=Timeouts(noticing_seconds=0.2)) as client:
        assert diagnose(client, Endpoint("http://127.0.0.1:1", sandbox_id="s1")) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(TransportError("reset", method="GET", url="http://x"), True, id="no answer"),
        pytest.param(CommandLostError("lost"), True, id="lost command"),
        pytest.param(ProtocolError("half of it"), True, id="half an answer"),
        pytest.param(NotFoundError(404, code="DOCKER::SANDBOX_NOT_FOUND"), True, id="no such sandbox"),
        pytest.param(ApiError(502), True, id="bad gateway"),
        pytest.param(NotFoundError(404, code="FILE_NOT_FOUND"), False, id="no such file"),
        pytest.param(ApiError(400), False, id="refused"),
        pytest.param(CommandStartError("x", why="no shell"), False, id="not started"),
    ],
)
def test_only_failures_on_the_way_are_diagnosed(error, expected):
    assert may_be_gone(error) is expected


def test_the_error_survives_the_way_to_the_controller_of_workers():
    error = SandboxGoneError("s1", "crashed: exit 137, out of memory", state="Failed", logs="x")

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.why, copy.state, copy.logs) == (str(error), error.why, error.state, error.logs)
    assert "resources=" in str(copy)
