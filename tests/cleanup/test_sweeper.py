"""The loop of a sweep: what it waits for, what it tries again, and what its report says."""

import threading

from pytest_opensandbox import Client
from pytest_opensandbox.cleanup.sweeper import SweepReport
from pytest_opensandbox.cleanup.targets import SandboxTarget
from tests.scripted_servers import Reply, as_json, serving

EMPTY = as_json({"items": [], "pagination": {"hasNextPage": False}})


def listing(*ids):
    items = [{"id": sandbox_id, "status": {"state": "Running"}} for sandbox_id in ids]
    return as_json({"items": items, "pagination": {"hasNextPage": False}})


def test_a_sandbox_that_shows_up_in_a_later_listing_is_swept_too():
    with serving(EMPTY, listing("late"), Reply(204), EMPTY, EMPTY) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert report == SweepReport(deleted=("late",))


def test_a_sandbox_that_is_still_listed_when_deleted_counts_once():
    replies = (listing("slow"), Reply(204), listing("slow"), EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert report == SweepReport(deleted=("slow",))
    assert [seen.method for seen in server.seen] == ["GET", "DELETE", "GET", "GET"]


def test_what_is_gone_before_the_sweep_gets_to_it_is_fine():
    replies = (listing("a"), as_json({"code": "X", "message": "gone"}, 404), EMPTY, EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert (report.left, report.error) == ((), "")


def test_what_fails_once_is_tried_again():
    refused = as_json({"code": "X", "message": "busy"}, 500)
    replies = (listing("a"), refused, listing("a"), Reply(204), EMPTY, EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert report == SweepReport(deleted=("a",))


def test_what_cannot_be_deleted_in_time_is_left_and_named_with_the_reason():
    refused = as_json({"code": "X", "message": "stuck"}, 500)
    replies = [listing("a"), Reply(204)] + [listing("b"), refused] * 50  # deletes side by side come in any order
    with serving(*replies) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep(budget_seconds=1)

    assert (report.deleted, report.left) == (("a",), ("b",))
    assert "1 sandbox could not be deleted" in report.error
    assert "stuck" in report.error


def test_a_key_that_is_refused_ends_the_sweep_at_once():
    refused = as_json({"code": "INVALID_API_KEY", "message": "no"}, 401)
    with serving(refused) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert len(server.seen) == 1
    assert report.left == ()
    assert "401" in report.error


def test_sandboxes_are_deleted_side_by_side():
    meeting = threading.Barrier(3, timeout=20)
    deleted = Reply(200, [_Meeting(meeting)], framing="chunked")
    replies = (listing("a", "b", "c"), deleted, deleted, deleted, EMPTY, EMPTY)
    with serving(*replies) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert sorted(report.deleted) == ["a", "b", "c"]
    assert not meeting.broken


def test_a_silent_server_does_not_hold_the_sweep_beyond_its_budget():
    held = threading.Event()
    with serving(listing("a"), Reply(200, [held], framing="chunked")) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep(budget_seconds=0.2)
        held.set()

    assert report.left == ("a",)


class _Meeting:
    """Holds an answer back until all deletions are under way."""

    def __init__(self, barrier):
        self._barrier = barrier

    def wait(self, timeout):
        return self._barrier.wait()


def test_what_is_being_deleted_already_is_not_deleted_again():
    ending = as_json({"items": [{"id": "a", "status": {"state": "Stopping"}}], "pagination": {"hasNextPage": False}})
    with serving(ending, ending, EMPTY, EMPTY) as server, Client(server.url) as client:
        report = SandboxTarget(client, run_id="run").sweep()

    assert report == SweepReport()
    assert {seen.method for seen in server.seen} == {"GET"}
