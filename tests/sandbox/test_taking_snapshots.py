"""Snapshots of sandboxes: how they are named, and what becomes of a failure."""

import pytest

from pytest_opensandbox import ApiError, Client, SnapshotFailedError
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.snapshot import lacks_snapshots, run_prefix, take_snapshot
from pytest_opensandbox.sandbox.tracking import RunTags
from tests.scripted_servers import Reply, as_json, serving
from tests.snapshot_server import SnapshotServer, conflict


def lifecycle(client, run_id="0123456789ab"):
    return Lifecycle(client, tags=RunTags(run_id, "gw0"), ready_timeout=5)


def kept(server, name=None, **how):
    """Take a snapshot from a server."""
    with serving(server=server), Client(server.url) as client:
        return take_snapshot(lifecycle(client), "s1", name, **how)


def test_a_snapshot_is_returned_when_it_is_ready():
    snapshot = kept(SnapshotServer(states=[{"state": "Creating"}, {"state": "Unheard-of"}]))

    assert (snapshot.id, snapshot.state) == ("p1", "Ready")


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        pytest.param(None, "pytest-opensandbox.0123456789ab.e3b0c442.gw0-", id="none"),
        pytest.param("base", "pytest-opensandbox.0123456789ab.e3b0c442.base-", id="a word"),
        pytest.param("with a / space", "pytest-opensandbox.0123456789ab.e3b0c442.with-a-space-", id="any text"),
    ],
)
def test_the_name_carries_the_run_and_is_of_its_own(name, begins):
    server = SnapshotServer()
    with serving(server=server), Client(server.url) as client:
        names = [take_snapshot(lifecycle(client), "s1", name).name for _ in range(2)]

    assert all(name.startswith(begins) and name.replace("-", "").replace(".", "").isalnum() for name in names)
    assert len(set(names)) == 2


def test_no_run_is_the_beginning_of_another():
    assert not run_prefix("12").startswith(run_prefix("1"))


def test_a_snapshot_that_failed_says_why_and_is_deleted():
    server = SnapshotServer(states=[{"state": "Failed", "reason": "runtime_failed", "message": "no space left"}])

    with pytest.raises(SnapshotFailedError, match="runtime_failed: no space left") as caught:
        kept(server)

    assert (caught.value.snapshot_id, caught.value.state) == ("p1", "Failed")
    assert server.snapshots == {}


def test_a_snapshot_that_takes_too_long_says_how_long():
    server = SnapshotServer(states=[{"state": "Creating"}] * 100)

    with pytest.raises(SnapshotFailedError, match=r"is Creating, not Ready \(not ready after 0\.\d s and \d+ polls?\)"):
        kept(server, timeout=0.2)


def test_a_lost_answer_is_looked_for_and_not_asked_for_again():
    # A second snapshot of which only the server knows would stay for ever.
    server = SnapshotServer(create=[Reply(drop="before")])

    snapshot = kept(server)

    assert snapshot.id == "p1"
    assert server.count("POST") == 1


def test_a_server_that_is_busy_is_asked_again():
    server = SnapshotServer(create=[as_json({"code": "X::BUSY"}, 429, Retry_After="0")])

    assert kept(server).id == "p1"
    assert server.count("POST") == 2


def test_a_refusal_is_the_servers_own():
    with pytest.raises(ApiError, match="409 SNAPSHOT::INVALID_SOURCE_STATE"):
        kept(SnapshotServer(create=[conflict("INVALID_SOURCE_STATE")]))


def test_whatever_comes_the_sweep_is_told_to_look():
    server = SnapshotServer(create=[conflict("INVALID_SOURCE_STATE")])
    with serving(server=server), Client(server.url) as client:
        life = lifecycle(client)
        before = life.ledger.has_snapshots
        with pytest.raises(ApiError):
            take_snapshot(life, "s1")

    assert (before, life.ledger.has_snapshots) == (False, True)


@pytest.mark.parametrize(
    ("status", "code", "lacks"),
    [
        pytest.param(501, "SNAPSHOT::NOT_IMPLEMENTED", True, id="not implemented"),
        pytest.param(409, "SNAPSHOT::UNSUPPORTED_RUNTIME", True, id="this runtime cannot"),
        pytest.param(409, "SNAPSHOT::RUNTIME_PREFLIGHT_FAILED", True, id="not this sandbox"),
        pytest.param(404, "", True, id="an old server without the route"),
        pytest.param(405, "", True, id="an old server without the method"),
        pytest.param(404, "DOCKER::SANDBOX_NOT_FOUND", False, id="no such sandbox"),
        pytest.param(409, "SNAPSHOT::INVALID_SOURCE_STATE", False, id="it does not run"),
        pytest.param(500, "SNAPSHOT::RUNTIME_CREATE_FAILED", False, id="it failed"),
        pytest.param(429, "", False, id="busy"),
    ],
)
def test_a_server_without_snapshots_is_told_from_one_in_trouble(status, code, lacks):
    assert lacks_snapshots(ApiError(status, code=code)) is lacks
