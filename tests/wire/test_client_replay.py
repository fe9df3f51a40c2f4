"""Recorded calls of the lifecycle API, played to the client: it asks as the recording did, and reads them right."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import ApiError, AuthError, ConflictError, NotFoundError
from pytest_opensandbox.transport.endpoints import Endpoint
from tests.scripted_servers import serving
from tests.wire.replay import asked_as_recorded, recordings, replay

ERRORS, LIFECYCLE, SNAPSHOTS = recordings("errors"), recordings("lifecycle"), recordings("snapshots")


def test_a_recorded_create_reads_as_a_sandbox():
    entry = next(entry for entry in LIFECYCLE.values() if entry["request"]["path"] == "/v1/sandboxes")
    body = entry["request"]["body"]
    opts = SandboxOpts(
        image=body["image"]["uri"],
        timeout=body["timeout"],
        resource_limits=body["resourceLimits"],
        metadata=body["metadata"],
        env=body["env"],
    )
    with serving(replay(entry)) as server, Client(server.url, "key") as client:
        sandbox = client.create_sandbox(opts)

    assert asked_as_recorded(server, entry)
    assert sandbox.is_running
    assert sandbox.metadata == body["metadata"]
    assert sandbox.created_at is not None
    assert sandbox.created_at.tzinfo is timezone.utc


@pytest.mark.parametrize(
    ("name", "labels", "count"),
    [
        ("list by one tag", {"suite": "wire"}, 1),
        ("list by two tags", {"suite": "wire", "case": "a"}, 1),
        ("list by two tags, none match", {"suite": "wire", "case": "zzz"}, 0),
    ],
)
def test_a_recorded_listing_is_asked_for_by_one_parameter(name, labels, count):
    with serving(replay(LIFECYCLE[name])) as server, Client(server.url) as client:
        found = client.list_sandboxes(labels)

    assert asked_as_recorded(server, LIFECYCLE[name], besides=frozenset({"page", "pageSize"}))
    assert len(found) == count


def test_recorded_pages_are_put_together():
    pages = [LIFECYCLE["list page 1 of 2"], LIFECYCLE["list page 2 of 2"]]
    with serving(*map(replay, pages)) as server, Client(server.url) as client:
        found = client.list_sandboxes({"suite": "wire"})

    assert len(found) == 3
    assert [dict(seen.query)["page"] for seen in server.seen] == ["1", "2"]


def test_a_recorded_dead_sandbox_says_why():
    with serving(replay(LIFECYCLE["list: entrypoint exited 1"])) as server, Client(server.url) as client:
        (sandbox,) = client.list_sandboxes({"case": "dead"})

    assert (sandbox.state, sandbox.reason) == ("Failed", "CONTAINER_EXITED_ERROR")
    assert sandbox.is_final


@pytest.mark.parametrize(
    ("name", "proxy", "url"),
    [
        ("endpoint of execd", False, "http://127.0.0.1:43350/proxy/44772"),
        (
            # Recorded at another port: the server's proxy is where the server was asked.
            "endpoint of execd through the server",
            True,
            "{server}/v1/sandboxes/df78237d-d141-4f47-937c-637575f6da87/proxy/44772",
        ),
    ],
)
def test_a_recorded_endpoint_gets_a_scheme(name, proxy, url):
    sandbox_id = LIFECYCLE[name]["request"]["path"].split("/")[3]
    with serving(replay(LIFECYCLE[name])) as server, Client(server.url, use_server_proxy=proxy) as client:
        endpoint = client.discover_execd(sandbox_id)

    assert asked_as_recorded(server, LIFECYCLE[name])
    assert endpoint == Endpoint(url.format(server=server.url), sandbox_id=sandbox_id)


def test_a_recorded_renewal_tells_the_new_end():
    entry = LIFECYCLE["renew"]
    with serving(replay(entry)) as server, Client(server.url) as client:
        until = client.renew(entry["request"]["path"].split("/")[3], 3600)

    assert until == datetime(2026, 11, 23, 12, 54, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(("name", "deleted"), [("delete", True), ("delete again", False)])
def test_a_recorded_delete_is_a_success_also_the_second_time(name, deleted):
    entry = LIFECYCLE[name]
    with serving(replay(entry)) as server, Client(server.url) as client:
        assert client.delete_sandbox(entry["request"]["path"].split("/")[3]) is deleted

    assert asked_as_recorded(server, entry)


def test_recorded_snapshots_are_read():
    with (
        serving(replay(SNAPSHOTS["snapshot create"]), replay(SNAPSHOTS["snapshot list"])) as server,
        Client(server.url) as client,
    ):
        made = client.create_snapshot("b3cb5173-2cf0-4cc0-9724-6f969ec14f63", "base")
        (listed,) = client.list_snapshots(made.sandbox_id)

    assert asked_as_recorded(server, SNAPSHOTS["snapshot create"])
    assert (made.state, listed.state, made.id == listed.id) == ("Creating", "Ready", True)


KINDS = {401: AuthError, 404: NotFoundError, 409: ConflictError}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=name)
        for topic in (ERRORS, LIFECYCLE, SNAPSHOTS)
        for name, entry in topic.items()
        if entry["response"]["status"] >= 400
    ],
)
def test_every_recorded_error_has_status_message_and_request_id(entry):
    response = entry["response"]
    with serving(replay(entry)) as server, Client(server.url, "key") as client, pytest.raises(ApiError) as caught:
        client.create_sandbox(SandboxOpts(image="x"))

    error = caught.value
    body = json.loads(response["chunks"][0][1])
    assert type(error) is KINDS.get(response["status"], ApiError)
    assert (error.status, error.code) == (response["status"], body.get("code", ""))
    assert error.request_id == response["headers"]["x-request-id"]
    assert error.message
    assert "{" not in error.message
