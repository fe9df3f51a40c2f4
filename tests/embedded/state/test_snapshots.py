"""Snapshots of the embedded server: states, refusals, listings, and their removal."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_opensandbox import SandboxOpts
from pytest_opensandbox.embedded.runtime.directories import SnapshotLayers
from tests.embedded.machine import USERS, running_server, wait_until

pytestmark = pytest.mark.thorough

CREATE = {"image": {"uri": "host"}, "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "1"}}


@pytest.fixture(scope="module")
def sandbox(machine):
    return machine.create()


def take(machine, sandbox_id, body=None):
    """Take a snapshot; return its description once it is ready or failed."""
    made = machine.request("POST", f"/v1/sandboxes/{sandbox_id}/snapshots", json=body)
    path = f"/v1/snapshots/{made.json()['id']}"
    assert wait_until(lambda: machine.request("GET", path).json()["status"]["state"] != "Creating")
    return machine.request("GET", path).json()


def restore(machine, snapshot_id):
    """Restore a snapshot, wait for the agent, and return the sandbox's id."""
    sandbox_id = machine.client.create_sandbox(SandboxOpts(image=None, snapshot_id=snapshot_id)).id
    machine.client.wait_ready(sandbox_id)
    return sandbox_id


def places(machine):
    """Return a server's private directories in shared memory."""
    held = []
    for link in Path(f"/proc/{machine.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            held.append(os.readlink(link))
    return [Path(path).parent for path in held if path.startswith("/dev/shm/") and path.endswith("/lock")]


def test_an_accepted_snapshot_is_being_made_and_says_where(machine, sandbox):
    accepted = machine.request("POST", f"/v1/sandboxes/{sandbox}/snapshots", json={"name": "n"})

    assert accepted.status_code == 202
    assert accepted.headers["Location"] == f"/v1/snapshots/{accepted.json()['id']}"
    assert accepted.json()["status"]["state"] == "Creating"


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"name": null}'], ids=lambda body: body.decode() or "nothing")
def test_a_snapshot_needs_no_name(machine, sandbox, body):
    accepted = machine.request("POST", f"/v1/sandboxes/{sandbox}/snapshots", data=body)

    assert accepted.status_code == 202
    assert "name" not in accepted.json()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param({"name": ""}, "string_too_short", id="an empty name"),
        pytest.param({"name": 7}, "string_type", id="a number"),
        pytest.param([], "model_attributes_type", id="a list"),
    ],
)
def test_a_malformed_request_is_refused_before_the_sandbox_is_looked_for(machine, body, kind):
    refused = machine.request("POST", "/v1/sandboxes/none/snapshots", json=body)

    assert (refused.status_code, refused.json()["detail"][0]["type"]) == (422, kind)


def test_a_sandbox_that_is_not_there_cannot_be_kept(machine):
    refused = machine.request("POST", "/v1/sandboxes/none/snapshots")

    assert (refused.status_code, refused.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_FOUND")


def test_a_sandbox_that_has_ended_cannot_be_kept(machine):
    ended = machine.request("POST", "/v1/sandboxes", json={**CREATE, "entrypoint": ["true"]}).json()["id"]
    assert wait_until(lambda: machine.client.get_sandbox(ended).state == "Terminated")

    refused = machine.request("POST", f"/v1/sandboxes/{ended}/snapshots")

    assert (refused.status_code, refused.json()["code"]) == (409, "SNAPSHOT::INVALID_SOURCE_STATE")


def test_a_sandbox_may_be_kept_as_soon_as_it_is_made(machine):
    made = machine.request("POST", "/v1/sandboxes", json=CREATE).json()["id"]

    assert take(machine, made)["status"]["state"] == "Ready"


def test_a_snapshot_that_is_being_made_can_be_neither_restored_nor_deleted(machine, sandbox):
    machine.run(sandbox, "mkdir -p /root/much && cd /root/much && seq 30000 | xargs touch")
    made = machine.request("POST", f"/v1/sandboxes/{sandbox}/snapshots").json()["id"]

    restored = machine.request("POST", "/v1/sandboxes", json={"snapshotId": made, "resourceLimits": {"cpu": "1"}})
    deleted = machine.request("DELETE", f"/v1/snapshots/{made}")

    assert (restored.status_code, restored.json()["code"]) == (409, "SNAPSHOT::NOT_READY")
    assert (deleted.status_code, deleted.json()["code"]) == (409, "SNAPSHOT::INVALID_STATE")
    assert wait_until(lambda: machine.client.get_snapshot(made).state == "Ready")


def test_a_refused_delete_leaves_a_snapshot_that_can_only_be_deleted(machine, sandbox):
    snapshot = take(machine, sandbox)["id"]
    user = restore(machine, snapshot)

    refused = machine.request("DELETE", f"/v1/snapshots/{snapshot}")
    restored = machine.request("POST", "/v1/sandboxes", json={"snapshotId": snapshot, "resourceLimits": {"cpu": "1"}})
    machine.client.delete_sandbox(user)

    assert (refused.status_code, refused.json()["code"]) == (409, "SNAPSHOT::DELETE_CONFLICT")
    assert restored.json()["code"] == "SNAPSHOT::NOT_READY"
    assert machine.request("DELETE", f"/v1/snapshots/{snapshot}").status_code == 204


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        pytest.param({"image": {"uri": "host"}}, 422, "Exactly one of image or snapshotId", id="and an image"),
        pytest.param({"resourceLimits": None}, 422, "resourceLimits is required", id="without limits"),
        pytest.param({"snapshotId": 7}, 422, "valid string", id="a number"),
        pytest.param({"snapshotId": "none", "volumes": [{}]}, 404, "Snapshot none not found", id="unknown"),
        pytest.param({"volumes": [{}]}, 400, "volumes are not mounted", id="and volumes"),
    ],
)
def test_a_create_from_a_snapshot_is_checked(machine, sandbox, change, status, text):
    snapshot = take(machine, sandbox)["id"]

    refused = machine.request(
        "POST", "/v1/sandboxes", json={"snapshotId": snapshot, "resourceLimits": {"cpu": "1"}, **change}
    )

    assert refused.status_code == status
    assert text.lower() in refused.text.lower()
    assert machine.request("DELETE", f"/v1/snapshots/{snapshot}").status_code == 204


def test_a_restored_sandbox_runs_the_entrypoint_that_is_given(machine, sandbox):
    snapshot = take(machine, sandbox)["id"]
    body = {"snapshotId": snapshot, "resourceLimits": {"cpu": "1"}, "entrypoint": ["sh", "-c", "exit 3"]}

    made = machine.request("POST", "/v1/sandboxes", json=body).json()

    assert made["entrypoint"] == ["sh", "-c", "exit 3"]
    assert wait_until(lambda: machine.client.get_sandbox(made["id"]).state == "Failed")


def test_listings_filter_and_page(machine):
    source = machine.create()
    taken = [take(machine, source, {"name": name})["id"] for name in ("a", "b", "a")]

    def listed(query):
        answer = machine.request("GET", f"/v1/snapshots?sandboxId={source}&{query}").json()
        return [taken.index(item["id"]) for item in answer["items"]], answer["pagination"]["totalItems"]

    assert listed("") == ([2, 1, 0], 3)
    assert listed("name=a") == ([2, 0], 2)
    assert listed("name=") == ([], 0)
    assert listed("state=Ready&state=Failed") == ([2, 1, 0], 3)
    assert listed("state=ready") == ([], 0)
    assert listed("pageSize=2") == ([2, 1], 3)
    assert listed("pageSize=2&page=2") == ([0], 3)


@pytest.mark.parametrize("query", ["page=0", "pageSize=201", "page=x"])
def test_listing_parameters_are_checked(machine, query):
    assert machine.request("GET", f"/v1/snapshots?{query}").status_code == 422


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_snapshot_that_is_not_there_is_told(machine, method):
    refused = machine.request(method, "/v1/snapshots/none")

    assert (refused.status_code, refused.json()["code"]) == (404, "SNAPSHOT::NOT_FOUND")


def test_a_snapshot_of_a_sandbox_deleted_meanwhile_ends(machine):
    source = machine.create()
    machine.run(source, "cd /tmp && seq 20000 | xargs touch")
    made = machine.request("POST", f"/v1/sandboxes/{source}/snapshots").json()["id"]

    machine.client.delete_sandbox(source)

    assert wait_until(lambda: machine.client.get_snapshot(made).state in ("Ready", "Failed"))
    machine.client.delete_snapshot(made)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda process: process.kill(), id="SIGKILL"),
        pytest.param(lambda process: process.send_signal(signal.SIGTERM), id="SIGTERM"),
        pytest.param(lambda process: process.stdin.close(), id="closed input"),
    ],
)
def test_snapshots_go_with_the_server(user, end):
    """Not even a killed server may leave files in memory."""
    with running_server(user=user) as machine:
        source = machine.create()
        machine.run(source, "mkdir -p /root/closed && touch /root/closed/in && chmod 000 /root/closed")
        restore(machine, take(machine, source)["id"])
        (place,) = places(machine)
        assert list(place.rglob("closed")) != []

        end(machine.process)
        machine.process.wait(30)

        assert wait_until(lambda: not place.exists())


def test_a_copy_that_is_under_way_ends_with_the_server():
    with running_server() as machine:
        source = machine.create()
        machine.run(source, "mkdir -p /root/much && cd /root/much && seq 60000 | xargs touch")
        machine.request("POST", f"/v1/sandboxes/{source}/snapshots")
        (place,) = places(machine)

    assert machine.process.returncode == 0
    assert not place.exists()


def test_what_a_deleted_snapshot_kept_is_gone():
    with running_server() as machine:
        source = machine.create()
        machine.run(source, "echo x > /root/kept")
        first = take(machine, source)["id"]
        second = take(machine, restore(machine, first))["id"]
        (place,) = places(machine)

        for sandbox in machine.client.list_sandboxes():
            machine.client.delete_sandbox(sandbox.id)
        machine.client.delete_snapshot(first)
        with_the_second = len(list(place.glob("layer-*")))
        machine.client.delete_snapshot(second)

        assert (with_the_second, list(place.glob("layer-*"))) == (2, [])


def test_a_server_without_snapshots_makes_no_place_for_them():
    with running_server() as machine:
        machine.create()

        assert places(machine) == []


def test_a_small_shared_memory_is_not_used():
    """Docker gives a container 64 MiB of shared memory."""
    made = SnapshotLayers(needed_bytes=os.statvfs("/dev/shm").f_blocks << 20)

    layer = made.new()
    made.close()

    assert not layer.is_relative_to("/dev/shm")
    assert not layer.exists()
