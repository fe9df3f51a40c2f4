"""The sweep finds all of a run and none of another; trouble is part of its report."""

import threading
import uuid
from contextlib import suppress

import pytest

from pytest_opensandbox import ApiError, Client, SandboxOpts
from pytest_opensandbox.cleanup.broom import SweepReport
from pytest_opensandbox.cleanup.sweep import sweep
from pytest_opensandbox.sandbox.tracking import TAG_CREATE, RunTags
from tests.scripted_servers import Reply, as_json, serving

EMPTY = as_json({"items": [], "pagination": {"hasNextPage": False}})


def listing(*ids):
    items = [{"id": sandbox_id, "status": {"state": "Running"}} for sandbox_id in ids]
    return as_json({"items": items, "pagination": {"hasNextPage": False}})


@pytest.fixture
def run_id():
    """A run of the test's own, on an engine that others may use as well."""
    return uuid.uuid4().hex


@pytest.fixture
def create(opensandbox_client, opensandbox_settings):
    """Make a sandbox of a run, or of a worker of it, and return its id."""

    def create(run_id, worker_id="main"):
        metadata = RunTags(run_id, worker_id).metadata()
        return opensandbox_client.create_sandbox(SandboxOpts(image=opensandbox_settings.image, metadata=metadata)).id

    return create


def test_a_sweep_deletes_its_own_run_and_leaves_other_runs_alone(opensandbox_client, create, run_id):
    own = [create(run_id, worker) for worker in ("main", "gw0")]
    other = create(f"{run_id}-2")

    report = sweep(opensandbox_client, run_id=run_id)

    left = {box.id for box in opensandbox_client.list_sandboxes()}
    opensandbox_client.delete_sandbox(other)
    assert sorted(report.deleted) == sorted(own)
    assert (report.left, report.error) == ((), "")
    assert other in left
    assert not left & set(own)


def test_a_create_that_is_under_way_is_waited_for(opensandbox_client, opensandbox_settings):
    metadata = RunTags("run-late").metadata()
    opts = SandboxOpts(image=opensandbox_settings.image, metadata=metadata)

    def create_late():
        # A real server may have it deleted while it starts, and then say so.
        with suppress(ApiError):
            opensandbox_client.create_sandbox(opts)

    create = threading.Timer(0.3, create_late)
    create.start()

    report = sweep(opensandbox_client, run_id="run-late", unanswered=[metadata[TAG_CREATE]])

    create.join()
    assert (len(report.deleted), report.left, report.error) == (1, (), "")


def test_a_create_that_makes_nothing_is_not_waited_for_for_ever(opensandbox_client, monkeypatch):
    monkeypatch.setattr("pytest_opensandbox.cleanup.sweep._LATE_SECONDS", 0.1)

    report = sweep(opensandbox_client, run_id="run-never", unanswered=["never"])

    assert report == SweepReport()


def test_a_sweep_for_one_worker_leaves_its_neighbours_alone(opensandbox_client, create, run_id):
    gone = create(run_id, "gw0")
    stays = create(run_id, "gw1")

    report = sweep(opensandbox_client, run_id=run_id, worker_id="gw0")

    assert report == SweepReport(deleted=(gone,))
    assert sweep(opensandbox_client, run_id=run_id).deleted == (stays,)


def test_a_sweep_without_a_run_id_is_refused_because_it_would_reach_other_runs(opensandbox_client):
    with pytest.raises(ValueError, match="other runs"):
        sweep(opensandbox_client, run_id="")


def test_a_sandbox_that_shows_up_in_a_later_listing_is_swept_too():
    with serving(EMPTY, listing("late"), Reply(204), EMPTY, EMPTY) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert report == SweepReport(deleted=("late",))


def test_a_sandbox_that_is_still_listed_after_its_deletion_is_not_counted_twice():
    replies = (listing("slow"), Reply(204), listing("slow"), EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert report == SweepReport(deleted=("slow",))
    assert [seen.method for seen in server.seen] == ["GET", "DELETE", "GET", "GET"]


def test_what_is_gone_before_the_sweep_gets_to_it_is_fine():
    replies = (listing("a"), as_json({"code": "X", "message": "gone"}, 404), EMPTY, EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert (report.left, report.error) == ((), "")


def test_what_fails_once_is_tried_again():
    trouble = as_json({"code": "X", "message": "busy"}, 500)
    replies = (listing("a"), trouble, listing("a"), Reply(204), EMPTY, EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert report == SweepReport(deleted=("a",))


def test_what_cannot_be_deleted_in_time_is_left_and_named_with_the_reason():
    trouble = as_json({"code": "X", "message": "stuck"}, 500)
    replies = [listing("a"), Reply(204)] + [listing("b"), trouble] * 50  # deletes side by side come in any order
    with serving(*replies) as server, Client(server.url) as client:
        report = sweep(client, run_id="run", budget_seconds=1)

    assert (report.deleted, report.left) == (("a",), ("b",))
    assert "1 sandbox could not be deleted" in report.error
    assert "stuck" in report.error


def test_a_key_that_is_refused_ends_the_sweep_at_once():
    refused = as_json({"code": "INVALID_API_KEY", "message": "no"}, 401)
    with serving(refused) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert len(server.seen) == 1
    assert report.left == ()
    assert "401" in report.error


def test_sandboxes_are_deleted_side_by_side():
    meeting = threading.Barrier(3, timeout=20)
    everybody = Reply(200, [_Meeting(meeting)], framing="chunked")
    replies = (listing("a", "b", "c"), everybody, everybody, everybody, EMPTY, EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert sorted(report.deleted) == ["a", "b", "c"]
    assert not meeting.broken


def test_a_server_that_falls_silent_does_not_hold_the_sweep_for_longer_than_its_budget():
    held = threading.Event()
    with serving(listing("a"), Reply(200, [held], framing="chunked")) as server, Client(server.url) as client:
        report = sweep(client, run_id="run", budget_seconds=0.2)
        held.set()

    assert report.left == ("a",)


class _Meeting:
    """Holds an answer back until all deletions are under way."""

    def __init__(self, barrier):
        self._barrier = barrier

    def wait(self, timeout):
        return self._barrier.wait()


def test_what_is_being_deleted_already_is_neither_deleted_again_nor_counted():
    ending = as_json({"items": [{"id": "a", "status": {"state": "Stopping"}}], "pagination": {"hasNextPage": False}})
    with serving(ending, ending, EMPTY, EMPTY) as server, Client(server.url) as client:
        report = sweep(client, run_id="run")

    assert report == SweepReport()
    assert {seen.method for seen in server.seen} == {"GET"}
