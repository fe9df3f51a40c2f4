"""Sweeps of sandboxes: those of one run are deleted, and no others."""

import threading
import uuid
from contextlib import suppress

import pytest

from pytest_opensandbox import ApiError, SandboxOpts
from pytest_opensandbox.cleanup.sweeper import SweepReport
from pytest_opensandbox.cleanup.targets import SandboxTarget
from pytest_opensandbox.sandbox.tracking import TAG_CREATE, RunTags


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

    report = SandboxTarget(opensandbox_client, run_id=run_id).sweep()

    left = {sandbox.id for sandbox in opensandbox_client.list_sandboxes()}
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

    report = SandboxTarget(opensandbox_client, run_id="run-late", unanswered=[metadata[TAG_CREATE]]).sweep()

    create.join()
    assert (len(report.deleted), report.left, report.error) == (1, (), "")


def test_a_create_that_makes_nothing_is_not_waited_for_for_ever(opensandbox_client):
    target = SandboxTarget(opensandbox_client, run_id="run-never", unanswered=["never"], late_seconds=0.1)

    report = target.sweep()

    assert report == SweepReport()


def test_a_sweep_for_one_worker_leaves_other_workers_alone(opensandbox_client, create, run_id):
    gone = create(run_id, "gw0")
    stays = create(run_id, "gw1")

    report = SandboxTarget(opensandbox_client, run_id=run_id, worker_id="gw0").sweep()

    assert report == SweepReport(deleted=(gone,))
    assert SandboxTarget(opensandbox_client, run_id=run_id).sweep().deleted == (stays,)


def test_an_empty_run_id_is_refused(opensandbox_client):
    with pytest.raises(ValueError, match="other runs"):
        SandboxTarget(opensandbox_client, run_id="").sweep()
