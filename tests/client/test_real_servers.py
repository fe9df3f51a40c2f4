"""What real servers do and the embedded one does not: refuse for a while, race, share an agent, be an hour off."""

import re
import time
from contextlib import contextmanager
from datetime import datetime
from email.utils import formatdate

import pytest

from pytest_opensandbox import (
    ApiError,
    Client,
    ConflictError,
    Sandbox,
    SandboxFailedError,
    SandboxOpts,
    SharedAgentError,
)
from pytest_opensandbox.cleanup.targets import SandboxTarget
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import TAG_RUN, RunTags
from pytest_opensandbox.transport.transport import KEY_HEADER
from tests.runner_reports import read_request
from tests.scripted_servers import OneSandboxServer, Pause, Reply, Seen, as_json, as_lines, reported, serving

IMAGE = SandboxOpts(image="python:3.12")
MADE = as_json({"id": "s1", "status": {"state": "Running"}}, 202)
NO_POD = as_json({"code": "KUBERNETES::POOL_CAPACITY_EXHAUSTED", "message": "No pod"}, 429, Retry_After="0")
PORT_RACE = as_json(
    {"code": "DOCKER::SANDBOX_START_FAILED", "message": "Bind for 127.0.0.1:40000: port is already allocated"}, 500
)
NOT_UP_YET = as_json({"code": "DOCKER::INITIALIZATION_ERROR", "message": "Docker is not up"}, 503)
RUNNING = as_json({"id": "s1", "status": {"state": "Running"}})
PENDING = as_json({"id": "s1", "status": {"state": "Pending"}})


@contextmanager
def lifecycle_on(server, *, ready_timeout=20.0, key=None, **how):
    """Run a server and a lifecycle on it for the length of a block."""
    with serving(server=server), Client(server.url, key, **how) as client:
        lifecycle = Lifecycle(client, tags=RunTags("r1"), ready_timeout=ready_timeout)
        yield lifecycle
        lifecycle.close()


def refused_as(other):
    return lambda seen: as_lines(f"{read_request(seen.json)['n']} refuse {other}")


def sandbox_on(lifecycle) -> Sandbox:
    return Sandbox.launch(lifecycle, IMAGE)


# From create to ready is what a user waits for before each test, and a round trip costs what the network costs.
def test_a_sandbox_takes_three_requests_and_its_first_command_two():
    server = OneSandboxServer(command=[reported(stdout=b"hi\n")])
    with lifecycle_on(server) as lifecycle:
        result = sandbox_on(lifecycle).run("echo hi")

    assert result.stdout == "hi\n"
    assert server.calls == ["create", "endpoint", "ping", "upload", "command"]


@pytest.mark.parametrize("refusal", [NO_POD, PORT_RACE, NOT_UP_YET], ids=["no pod", "port race", "not up yet"])
def test_a_create_that_made_nothing_is_sent_again_under_the_same_tags(refusal):
    server = OneSandboxServer(create=[refusal, refusal, MADE])
    with lifecycle_on(server) as lifecycle:
        launched = lifecycle.launch(IMAGE)

    assert launched.response.id == "s1"
    assert server.calls == ["create"] * 3 + ["endpoint", "ping"]
    assert server.seen[0].json == server.seen[2].json


def test_a_port_race_that_is_lost_three_times_is_an_error():
    server = OneSandboxServer(create=[PORT_RACE] * 9)
    with lifecycle_on(server) as lifecycle, pytest.raises(ApiError, match="port is already allocated"):
        lifecycle.launch(IMAGE)

    assert server.calls == ["create"] * 3


def test_a_server_that_stays_without_room_is_an_error_that_says_what_to_do():
    server = OneSandboxServer(create=[NO_POD] * 1000)
    with lifecycle_on(server, ready_timeout=0.2) as lifecycle, pytest.raises(ApiError, match="No pod") as caught:
        lifecycle.launch(IMAGE)

    assert caught.value.code == "KUBERNETES::POOL_CAPACITY_EXHAUSTED"
    assert "run fewer workers" in str(caught.value)
    assert "--opensandbox-ready-timeout" in str(caught.value)


def test_a_conflict_is_told_at_once():
    conflict = as_json({"code": "SNAPSHOT::NOT_READY", "message": "Snapshot p1 is Creating."}, 409)
    server = OneSandboxServer(create=[conflict])
    with lifecycle_on(server) as lifecycle, pytest.raises(ConflictError, match="Snapshot p1 is Creating"):
        lifecycle.launch(SandboxOpts(snapshot_id="p1"))

    assert server.calls == ["create"]


# A load balancer's 503 says nothing about what the server behind it has begun: a second create could make two.
@pytest.mark.parametrize(
    ("listed", "calls"),
    [
        pytest.param(["s1"], ["create", "list", "endpoint", "ping"], id="it was made"),
        pytest.param([], ["create", "list"], id="it was not"),
    ],
)
def test_a_503_that_says_nothing_is_looked_into_by_the_tag(listed, calls):
    found = as_json({"items": [{"id": name, "status": {"state": "Running"}} for name in listed]})
    server = OneSandboxServer(create=[Reply(503, b"<html>")], list=[found])
    with lifecycle_on(server) as lifecycle:
        if listed:
            assert lifecycle.launch(IMAGE).response.id == "s1"
        else:
            with pytest.raises(ApiError, match="503"):
                lifecycle.launch(IMAGE)

    # The listings are asked for until they have settled.
    assert list(dict.fromkeys(server.calls)) == calls
    tag = server.seen[0].json["metadata"]["pytest-opensandbox.create"]
    assert ("metadata", f"pytest-opensandbox.create={tag}") in server.seen[1].query


# Docker pulls the image inside the request; no client may give it up like an ordinary one.
def test_a_create_outlasts_the_time_of_an_ordinary_request():
    slow = Reply(202, [Pause(0.6), b'{"id": "s1", "status": {"state": "Running"}}'])
    with lifecycle_on(OneSandboxServer(create=[slow]), request_timeout=0.2) as lifecycle:
        assert lifecycle.launch(IMAGE).response.id == "s1"


def test_kubernetes_is_slow_with_the_state_the_address_and_the_agent():
    no_ip = as_json({"code": "KUBERNETES::POD_IP_NOT_AVAILABLE", "message": "no address yet"}, 404)
    made = as_json({"id": "s1", "status": {"state": "Pending"}}, 202)
    server = OneSandboxServer(
        create=[made], state=[PENDING, PENDING], endpoint=[no_ip, no_ip], ping=[Reply(502), Reply(503)]
    )
    with lifecycle_on(server) as lifecycle:
        lifecycle.launch(IMAGE)

    assert [server.calls.count(route) for route in ("create", "endpoint", "ping")] == [1, 3, 3]


def test_an_entrypoint_that_ends_at_once_is_shown_with_its_log_and_deleted():
    died = {"state": "Failed", "reason": "CONTAINER_EXITED_ERROR", "message": "Sandbox container exited with code 7."}
    logs = as_json({"delivery": "inline", "content": "boom\n"})
    server = OneSandboxServer(ping=[Reply(502)], state=[as_json({"id": "s1", "status": died})], logs=[logs])
    with lifecycle_on(server, ready_timeout=60) as lifecycle:
        started = time.monotonic()
        with pytest.raises(SandboxFailedError, match="exited with code 7") as caught:
            lifecycle.launch(IMAGE)
        waited = time.monotonic() - started

    assert caught.value.logs == "boom\n"
    assert server.calls == ["create", "endpoint", "ping", "state", "logs", "delete"]
    assert waited < 60 / 4


def test_labels_of_the_image_are_not_among_the_sandboxes_own():
    leaked = {"maintainer": "m", "version": "3"}
    made = as_json({"id": "s1", "status": {"state": "Running"}, "metadata": leaked}, 202)
    with lifecycle_on(OneSandboxServer(create=[made])) as lifecycle:
        sandbox = Sandbox.launch(lifecycle, SandboxOpts(image="a", metadata={"team": "blue"}))

    assert not leaked.keys() & sandbox.metadata.keys()
    assert (sandbox.metadata["team"], sandbox.metadata[TAG_RUN]) == ("blue", "r1")


# A lease that is computed by a clock that is an hour slow lies in the past, and the server ends the sandbox.
@pytest.mark.parametrize("hours", [-1, 1], ids=["an hour slow", "an hour fast"])
def test_a_lease_counts_by_the_servers_clock(hours):
    now = time.time() + hours * 3600
    made = as_json({"id": "s1", "status": {"state": "Running"}}, 202, Date=formatdate(now, usegmt=True))
    server = OneSandboxServer(create=[made])
    with lifecycle_on(server) as lifecycle:
        lifecycle.launch(IMAGE)
        lifecycle.lease.renew_all()

    text = server.seen[-1].json["expiresAt"]
    end = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    assert server.calls[-1] == "renew"
    assert abs(end - (now + lifecycle.lease.seconds)) < 1800


class FullServer(OneSandboxServer):
    """Has hundreds of sandboxes, newest first, on pages of at most 200, as Docker's server."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.ids = [f"s{number}" for number in range(count)]

    def usual(self, route: str, seen: Seen) -> Reply:
        """Answer listings and deletes."""
        if seen.method == "DELETE":
            self.ids.remove(seen.path.rpartition("/")[2])
            return Reply(204)
        query = dict(seen.query)
        number, size = int(query["page"]), int(query["pageSize"])
        shown = self.ids[(number - 1) * size : number * size]
        more = number * size < len(self.ids)
        return as_json({"items": [{"id": name} for name in shown], "pagination": {"hasNextPage": more}})


def test_a_sweep_deletes_more_sandboxes_than_a_page_holds():
    server = FullServer(450)
    with serving(server=server), Client(server.url) as client:
        report = SandboxTarget(client, run_id="r1").sweep(budget_seconds=300)

    assert (len(report.deleted), report.left, report.error) == (450, (), "")
    assert {dict(seen.query)["pageSize"] for seen in server.seen if seen.method == "GET"} == {"200"}


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda sandbox: sandbox.run("rm -rf /"), id="run"),
        pytest.param(lambda sandbox: sandbox.run("cat", input="x"), id="run with an input"),
        pytest.param(lambda sandbox: sandbox.run("true", on_stdout=print), id="run with a callback"),
        pytest.param(lambda sandbox: sandbox.put("text", "/tmp/x"), id="put"),
        pytest.param(lambda sandbox: sandbox.get("/tmp/x"), id="get"),
    ],
)
def test_an_agent_that_is_another_sandboxes_gets_nothing_to_do(use):
    server = OneSandboxServer(command=[refused_as("s0")])
    # Behind the server's proxy no address shows that the server uses Docker's host network.
    with lifecycle_on(server, use_server_proxy=True) as lifecycle:
        sandbox = sandbox_on(lifecycle)
        with pytest.raises(SharedAgentError, match="reach the agent of sandbox s0: ") as caught:
            use(sandbox)

    assert caught.value.other_id == "s0"
    assert 'network_mode = "bridge"' in str(caught.value)
    uploads = [seen.body for seen in server.seen if seen.path.endswith("/files/upload")]
    assert ["/.opensandbox-runner-" in str(body) for body in uploads] == [True]
    assert "info" not in server.calls
    assert (sandbox.id, server.calls.count("command")) == ("s1", 1)


def test_an_agent_with_an_address_of_its_own_is_not_asked_before_a_copy():
    size = as_json({"/tmp/x": {"path": "/tmp/x", "size": 4}})
    server = OneSandboxServer(info=[size])
    with lifecycle_on(server) as lifecycle:
        sandbox_on(lifecycle).put("text", "/tmp/x")

    assert server.calls == ["create", "endpoint", "ping", "upload", "info"]


def test_a_real_agent_tells_whose_it_is(sandbox):
    theirs = sandbox.run('echo "$OPENSANDBOX_ID"').stdout.strip()

    assert theirs == sandbox.id


@pytest.mark.parametrize("text", ["", "another"], ids=["not set", "the command's own"])
def test_a_variable_that_a_command_brings_along_deceives_nobody(sandbox, text):
    assert sandbox.run('echo "$OPENSANDBOX_ID"', env={"OPENSANDBOX_ID": text}).stdout == f"{text}\n"


def test_headers_of_an_endpoint_go_with_every_request_to_it():
    headers = {"OpenSandbox-Ingress-To": "s1-44772", "OpenSandbox-Secure-Access": "t0ken"}
    size = as_json({"/tmp/x": {"path": "/tmp/x", "size": 4}})
    server = OneSandboxServer(command=[reported()], info=[size])
    server.script["endpoint"] = [as_json({"endpoint": f"127.0.0.1:{server.port}/agent", "headers": headers})]
    with lifecycle_on(server, key="k3y") as lifecycle:
        sandbox = sandbox_on(lifecycle)
        sandbox.run("true")
        sandbox.put("text", "/tmp/x")

    to_agent = [seen for seen in server.seen if "/agent/" in seen.path]
    assert len(to_agent) == 5
    assert all(seen.headers[name] == value for seen in to_agent for name, value in headers.items())
    assert not any(KEY_HEADER in seen.headers for seen in to_agent)


# Some ingresses lose uploads without a length, and the proxy routes no HEAD.
@pytest.mark.parametrize("named", ["", "198.51.100.7"], ids=["by the name that was asked", "by its eip"])
def test_with_the_servers_proxy_each_request_has_the_key_and_a_length(named):
    size = as_json({"/tmp/x": {"path": "/tmp/x", "size": 100_000}})
    server = OneSandboxServer(command=[reported()], info=[size])
    server.public_host = named or server.public_host
    with lifecycle_on(server, key="k3y", use_server_proxy=True) as lifecycle:
        sandbox = sandbox_on(lifecycle)
        sandbox.run("true")
        sandbox.put(b"x" * 100_000, "/tmp/x")

    proxied = [seen for seen in server.seen if "/proxy/44772/" in seen.path]
    assert [re.sub(".*/", "", seen.path) for seen in proxied] == ["ping", "upload", "command", "upload", "info"]
    assert all(seen.headers[KEY_HEADER] == "k3y" for seen in server.seen)
    assert "HEAD" not in {seen.method for seen in server.seen}
    _, upload = [seen for seen in proxied if seen.path.endswith("/files/upload")]
    assert int(upload.headers["Content-Length"]) == len(upload.body) > 100_000
    assert "Transfer-Encoding" not in upload.headers
