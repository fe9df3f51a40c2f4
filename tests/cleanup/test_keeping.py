"""Snapshots of a run: how they are called, what becomes of trouble, and that none of them is forgotten."""

import hashlib

import pytest

from pytest_opensandbox import ApiError, Client, SnapshotFailedError
from pytest_opensandbox.cleanup.broom import SweepReport
from pytest_opensandbox.cleanup.keeping import expired_snapshots, sweep_expired_snapshots, sweep_snapshots
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.snapshot import lacks_snapshots, run_prefix, take_snapshot
from pytest_opensandbox.sandbox.tracking import RunTags
from tests.scripted_servers import Reply, Server, as_json, serving

GONE = Reply(204)


class SnapshotServer(Server):
    """A lifecycle server that takes snapshots of any sandbox; all is well with it unless a test says more.

    Args:
        states: what a look at a snapshot finds, in order; Ready after that.
        script: what it answers to ``create``, ``list`` and ``delete`` before it is well.
    """

    def __init__(self, *, states=(), **script):
        super().__init__([])
        self.snapshots = {}
        self.states = list(states)
        self.script = {route: list(replies) for route, replies in script.items()}

    def add(self, name, snapshot_id=None):
        snapshot_id = snapshot_id or f"p{len(self.snapshots) + 1}"
        self.snapshots[snapshot_id] = {
            "id": snapshot_id,
            "sandboxId": "s1",
            "name": name,
            "status": {"state": "Creating"},
        }
        return self.snapshots[snapshot_id]

    def next_reply(self, seen):
        with self._lock:
            self.seen.append(seen)
            last = seen.path.rpartition("/")[2]
            route = {"POST": "create", "DELETE": "delete"}.get(seen.method, "list" if last == "snapshots" else "get")
            begun = self.add(seen.json["name"]) if route == "create" and not self._refuses() else None
            planned = self.script.get(route)
            return planned.pop(0) if planned else self._usual(route, last, begun)

    def _refuses(self):
        """Say whether the next answer to a create is a refusal, so that nothing is begun."""
        planned = self.script.get("create")
        return bool(planned) and not planned[0].drop

    def _usual(self, route, last, begun):
        if route == "create":
            return as_json(begun, 202)
        if route == "list":
            return as_json({"items": list(self.snapshots.values()), "pagination": {"hasNextPage": False}})
        if route == "delete":
            return GONE if self.snapshots.pop(last, None) else as_json({"code": "SNAPSHOT::NOT_FOUND"}, 404)
        state = self.states.pop(0) if self.states else {"state": "Ready"}
        return as_json({**self.snapshots[last], "status": state})

    def count(self, method):
        return sum(seen.method == method for seen in self.seen)


def lifecycle(client, run_id="0123456789ab"):
    return Lifecycle(client, tags=RunTags(run_id, "gw0"), ready_timeout=5)


def kept(server, name=None, **how):
    """Take a snapshot from a server."""
    with serving(server=server), Client(server.url) as client:
        return take_snapshot(lifecycle(client), "s1", name, **how)


def swept(server, run_id="mine", **how):
    """Sweep a server."""
    with serving(server=server), Client(server.url) as client:
        return sweep_snapshots(client, run_id=run_id, **how)


def conflict(code):
    return as_json({"code": f"SNAPSHOT::{code}", "message": "not now"}, 409)


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

    with pytest.raises(SnapshotFailedError, match=r"is Creating, not Ready \(not ready after 0\.\d s and \d+ looks?\)"):
        kept(server, timeout=0.2)


def test_a_lost_answer_is_looked_for_and_not_asked_for_again():
    # A second snapshot that nobody knows would stay for ever.
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
        found = [snapshot.id for snapshot in expired_snapshots(client, project="mine")]
        report = sweep_expired_snapshots(client, project="mine")

    assert found == ["p1"]
    assert report == SweepReport(deleted=("p1",))
    assert sorted(server.snapshots) == ["p2", "p3", "p4", "p5"]


def test_a_sweep_without_a_run_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        swept(SnapshotServer(), run_id="")
