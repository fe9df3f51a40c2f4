"""The terminal summary of a run."""

import time

import pytest

from pytest_opensandbox.reporting.summary import summary_lines
from pytest_opensandbox.sandbox.tracking import SetupTally, Tally

SWEEP = "python -m pytest_opensandbox sweep --run r1 --opensandbox-url=http://sandbox.example.org"


def test_the_summary_names_workers_without_complete_counts():
    """After Ctrl-C xdist drops the workers' reports: the sweep has deleted all, but the counts are incomplete."""
    lines = summary_lines(Tally(created=1, deleted=1), sweep=SWEEP, lease_seconds=60, unreported=["gw0", "gw1"])

    assert lines == [
        ("opensandbox: 1 created, 1 deleted, 0 swept, 0 left; gw0, gw1 stopped before reporting all", {}),
    ]


def test_a_run_without_sandboxes_has_no_summary_lines():
    assert summary_lines(Tally(), sweep=SWEEP, lease_seconds=120) == []


def test_a_summary_is_one_line_of_counts_where_all_went_well():
    lines = summary_lines(Tally(created=3, deleted=2, swept=("a",)), sweep=SWEEP, lease_seconds=120)

    assert lines == [("opensandbox: 3 created, 2 deleted, 1 swept, 0 left", {})]


def test_what_is_left_is_named_in_red_with_the_end_of_its_lease():
    ends = [time.strftime("%H:%M:%S", time.localtime(time.time() + seconds)) for seconds in range(119, 180)]

    lines = summary_lines(Tally(created=2, left=("a", "b")), sweep=SWEEP, lease_seconds=120)

    end = lines[1][0].split()[3].rstrip(",")
    assert end in ends
    assert lines == [
        ("opensandbox: 2 created, 0 deleted, 0 swept, 2 left", {"red": True}),
        (f"still running until {end}, when their lease ends: a, b", {"red": True}),
        (f"to delete them now: {SWEEP}", {}),
    ]


def test_what_an_embedded_server_could_not_end_has_no_lease_and_no_command():
    _, (text, _) = summary_lines(Tally(created=1, left=("a",)), sweep="", lease_seconds=120)

    assert (
        text == "did not end when the embedded server ended them; see whether `ps -ef` still shows a bwrap of theirs: a"
    )


def test_a_summary_names_the_workers_that_died_and_why_a_sweep_stopped():
    lines = summary_lines(
        Tally(created=1, deleted=1), sweep=SWEEP, lease_seconds=60, crashed=["gw0", "gw2"], error="401"
    )

    assert [text for text, _ in lines] == [
        "opensandbox: 1 created, 1 deleted, 0 swept, 0 left; gw0, gw2 crashed",
        "the sweep stopped early: 401",
    ]


@pytest.mark.parametrize(
    ("setups", "lines"),
    [
        pytest.param(
            SetupTally(built=1, seconds=2.34, restored=40),
            [("setup: 1 prepared and kept in 2.3 s, 40 sandboxes restored", {})],
            id="snapshots",
        ),
        pytest.param(
            SetupTally(repeated=1, repeated_seconds=0.5, reasons=("it has none", "pools")),
            [
                (
                    "setup: run anew in 1 sandbox, 0.5 s in all, for want of snapshots: it has none; pools",
                    {"yellow": True},
                )
            ],
            id="no snapshots",
        ),
        pytest.param(
            SetupTally(left=("p1 (a)", "p2 (b)")),
            [
                ("snapshots stay on the server until they are deleted by hand: p1 (a), p2 (b)", {"red": True}),
                (f"to delete them now: {SWEEP}", {}),
            ],
            id="snapshots left",
        ),
        pytest.param(SetupTally(has_snapshots=True), [], id="only by hand"),
    ],
)
def test_a_summary_tells_of_setups_where_there_were_any(setups, lines):
    _, *others = summary_lines(Tally(created=1, deleted=1, setups=setups), sweep=SWEEP, lease_seconds=60)

    assert others == lines
