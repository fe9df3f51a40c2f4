"""Sweeps of snapshots: those of one run or of dead runs are deleted, and no others."""

import hashlib

import pytest

from pytest_opensandbox import Client
from pytest_opensandbox.cleanup.sweeper import SweepReport
from pytest_opensandbox.cleanup.targets import SnapshotTarget
from pytest_opensandbox.sandbox.snapshot import run_prefix
from tests.scripted_servers import as_json, serving
from tests.snapshot_server import SnapshotServer, conflict


def swept(server, run_id="mine", **how):
    """Sweep a server."""
    with serving(server=server), Client(server.url) as client:
        return SnapshotTarget(client, run_id=run_id).sweep(**how)


def test_a_sweep_deletes_the_runs_own_and_nobody_elses():
    server = SnapshotServer()
    for name in (run_prefix("mine") + "a", run_prefix("mine") + "b", run_prefix("mine2") + "a", "theirs", ""):
        server.add(name)

    report = swept(server)

    assert (report.deleted, report.left, report.error) == (("p1", "p2"), (), "")
    assert list(server.snapshots) == ["p3", "p4", "p5"]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("INVALID_STATE", id="still being made"),
        pytest.param("DELETE_CONFLICT", id="a sandbox still uses it"),
    ],
)
def test_a_sweep_waits_for_what_cannot_be_deleted_yet(code):
    server = SnapshotServer(delete=[conflict(code), conflict(code)])
    server.add(run_prefix("mine") + "a")

    report = swept(server)

    assert (report.deleted, report.left) == (("p1",), ())
    assert server.count("DELETE") == 3


def test_a_sweep_names_what_stays_and_why():
    server = SnapshotServer(delete=[conflict("DELETE_CONFLICT")] * 100)
    server.add(run_prefix("mine") + "a")

    report = swept(server, budget_seconds=0.3)

    assert report.left == (f"p1 ({run_prefix('mine')}a)",)
    assert "1 snapshot could not be deleted" in report.error
    assert "DELETE_CONFLICT" in report.error


def test_a_sweep_stops_where_it_is_not_allowed_to_delete():
    server = SnapshotServer(delete=[as_json({"message": "not yours"}, 403)])
    server.add(run_prefix("mine") + "a")

    report = swept(server)

    assert report.left == (f"p1 ({run_prefix('mine')}a)",)
    assert "not yours" in report.error


def test_a_server_without_snapshots_has_nothing_to_sweep():
    report = swept(SnapshotServer(list=[as_json({"code": "SNAPSHOT::NOT_IMPLEMENTED"}, 501)]))

    assert (report.deleted, report.left, report.error) == ((), (), "")


def test_where_nobody_answers_the_name_says_what_to_look_for():
    server = SnapshotServer(list=[as_json({"message": "broken"}, 500)])

    report = swept(server)

    assert report.left == (f"snapshots named {run_prefix('mine')}* (if there are any; the server did not list them)",)
    assert "broken" in report.error


class ServerWithDeadRuns(SnapshotServer):
    """Also says that one run has a sandbox."""

    def next_reply(self, seen):
        if not seen.path.endswith("/sandboxes"):
            return super().next_reply(seen)
        living = "living" in dict(seen.query)["metadata"]
        return as_json([{"id": "s1", "status": {"state": "Running"}}] if living else [])


def test_snapshots_of_a_project_s_dead_runs_go_and_no_others():
    # A snapshot has no lease, so that nothing else would ever delete those of a run that was killed.
    server = ServerWithDeadRuns()
    old, young = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
    mark, other = (hashlib.sha256(name).hexdigest()[:8] for name in (b"mine", b"theirs"))
    for name, created in (
        (f"{run_prefix('dead')}{mark}.a", old),
        (f"{run_prefix('dead')}{other}.a", old),
        (f"{run_prefix('dead')}{mark}.b", young),
        (f"{run_prefix('living')}{mark}.a", old),
        ("by hand", old),
    ):
        server.add(name)["createdAt"] = created

    with serving(server=server), Client(server.url) as client:
        found = [snapshot.id for snapshot in SnapshotTarget(client, project="mine").find()]
        report = SnapshotTarget(client, project="mine").sweep()

    assert found == ["p1"]
    assert report == SweepReport(deleted=("p1",))
    assert sorted(server.snapshots) == ["p2", "p3", "p4", "p5"]


def test_a_sweep_without_a_run_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        swept(SnapshotServer(), run_id="")
