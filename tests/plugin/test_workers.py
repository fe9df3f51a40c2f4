"""Messages between xdist's controller and its workers, with and without a last report."""

from types import SimpleNamespace

import pytest

from pytest_opensandbox.cleanup.sweeper import SweepReport
from pytest_opensandbox.plugin.run import Run
from pytest_opensandbox.plugin.workers import TALLY_KEY, USAGE_ERROR_KEY, Workers, identity, report_to_controller
from pytest_opensandbox.sandbox.tracking import Tally
from pytest_opensandbox.settings.settings import read_settings

CONTROLLER = SimpleNamespace()


class SharedServer(Run):
    """A controller's part of a run whose server answers sweeps from a script."""

    def __init__(self, *reports, url="http://127.0.0.1:1"):
        settings = read_settings(flags={"url": url}, environ={}, inis={})
        super().__init__(CONTROLLER, settings, run_id="run-1", worker_id="main")
        self.asked = []
        self.looked_for_snapshots = False
        self._reports = list(reports)

    def sweep(self, *, worker_id=None):
        self.asked.append(worker_id)
        return self._reports.pop(0)

    def sweep_snapshots(self, tally, *, also_unreported=False):
        self.looked_for_snapshots = tally.setups.has_snapshots or also_unreported
        return tally


def test_a_process_that_nobody_controls_mints_its_run_id():
    first, second = identity(CONTROLLER), identity(CONTROLLER)

    assert first[1] == second[1] == "main"
    assert len(first[0]) == 12
    assert first[0] != second[0]


def test_a_worker_takes_the_run_id_that_it_was_given():
    workerinput = {"workerid": "gw3"}
    Workers(SharedServer()).configure_worker("gw3", workerinput)

    assert identity(SimpleNamespace(workerinput=workerinput)) == ("run-1", "gw3")


def test_a_worker_of_a_controller_without_this_plugin_mints_its_own():
    run_id, worker_id = identity(SimpleNamespace(workerinput={"workerid": "gw0"}))

    assert (len(run_id), worker_id) == (12, "gw0")


def test_a_worker_reports_its_tally_and_its_complaint():
    config = SimpleNamespace(workeroutput={})

    report_to_controller(config, tally=Tally(created=1))
    report_to_controller(config, usage_error="no such argument")

    assert Tally.from_wire(config.workeroutput[TALLY_KEY]) == Tally(created=1)
    assert config.workeroutput[USAGE_ERROR_KEY] == "no such argument"


def test_a_controller_reports_to_no_controller():
    report_to_controller(CONTROLLER, tally=Tally(created=1))

    assert not vars(CONTROLLER)


def test_a_later_tally_of_a_worker_replaces_the_earlier_one():
    workers = Workers(SharedServer())

    for created in (1, 2):
        workers.receive_tally("gw0", Tally(created=created).to_wire())
    workers.receive_tally("gw1", Tally(created=5).to_wire())
    workers.receive_tally("gw1", None)

    assert workers.tally == Tally(created=7)


def test_nothing_is_asked_of_a_server_that_no_worker_used():
    run = SharedServer()
    workers = Workers(run)
    workers.configure_worker("gw0", {})
    workers.receive_tally("gw0", Tally().to_wire())
    workers.note_end("gw0", died=False)

    workers.finish()

    assert run.asked == []


def test_a_worker_without_a_last_report_is_swept_and_named():
    workers = Workers(SharedServer(SweepReport(deleted=("a",))))
    workers.configure_worker("gw0", {})
    workers.configure_worker("gw1", {})
    workers.note_end("gw1", died=False)

    workers.finish()

    assert workers.tally.swept == ("a",)
    assert workers.unreported == ["gw0"]


def test_the_whole_run_is_swept_once_where_a_worker_used_a_sandbox():
    run = SharedServer(SweepReport(deleted=("a",)))
    workers = Workers(run)
    workers.configure_worker("gw0", {})
    workers.receive_tally("gw0", Tally(created=2, deleted=1, left=("a",)).to_wire())
    workers.note_end("gw0", died=False)

    workers.finish()
    workers.finish()

    assert run.asked == [None]
    assert workers.tally == Tally(created=2, deleted=1, swept=("a",))


def test_a_dead_worker_is_swept_at_once_and_again_at_the_end():
    run = SharedServer(SweepReport(deleted=("a",)), SweepReport(deleted=("late",)))
    workers = Workers(run)
    workers.configure_worker("gw0", {})

    workers.note_end("gw0", died=True)
    asked_at_once = list(run.asked)
    workers.finish()

    assert asked_at_once == ["gw0"]
    assert run.asked == ["gw0", None]
    assert workers.crashed == ["gw0"]
    assert workers.tally == Tally(created=2, swept=("a", "late"))


def test_a_worker_without_a_last_report_may_have_had_sandboxes():
    run = SharedServer(SweepReport())
    workers = Workers(run)
    workers.configure_worker("gw0", {})

    workers.finish()

    assert run.asked == [None]


def test_a_dead_worker_with_a_server_of_its_own_leaves_nothing_to_sweep():
    run = SharedServer(url="embedded")
    workers = Workers(run)
    workers.configure_worker("gw0", {})
    workers.receive_tally("gw0", Tally(created=3, deleted=2, left=("a",)).to_wire())

    workers.note_end("gw0", died=True)
    workers.finish()

    assert run.asked == []
    assert workers.tally == Tally(created=3, deleted=3)


@pytest.mark.parametrize("left", [(), ("a",)])
def test_what_a_sweep_could_not_do_stays_in_the_tally_with_the_reason(left):
    run = SharedServer(SweepReport(left=left, error="403"))
    workers = Workers(run)
    workers.receive_tally("gw0", Tally(created=1, left=("a",)).to_wire())

    workers.finish()

    assert workers.tally == Tally(created=1, left=("a",))
    assert workers.error == "403"
