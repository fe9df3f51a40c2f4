"""Outcomes of a setup: what one process stores is what another one reads."""

import json

import pytest

from pytest_opensandbox import SetupError, SnapshotFailedError
from pytest_opensandbox.provisioning.setup_outcome import (
    FailedSetup,
    FailedSnapshot,
    Kept,
    NotKept,
    from_json,
    to_json,
)

SETUP = SetupError(
    "make",
    exit_code=-9,
    stdout="out",
    stderr="err\udc80",
    sandbox_id="s1",
    source="base:1",
    why="was ended by signal 9",
)
SNAPSHOT = SnapshotFailedError(sandbox_id="s1", snapshot_id="p1", reason="runtime_failed", message="no space left")


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(Kept(snapshot_id="p1", labels=("a", "b")), id="kept"),
        pytest.param(NotKept(reason="no snapshots here"), id="not kept"),
        pytest.param(FailedSetup.of(SETUP), id="failed setup"),
        pytest.param(FailedSnapshot.of(SNAPSHOT), id="failed snapshot"),
    ],
)
def test_an_outcome_travels_as_json(outcome):
    assert from_json(json.loads(json.dumps(to_json(outcome)))) == outcome


def test_a_setup_that_failed_before_has_all_facts_and_a_short_text():
    error = FailedSetup.of(SETUP).error()

    assert vars(error) == vars(SETUP) | {"repeated": True}
    assert str(error) == (
        "'make' was ended by signal 9 as setup of the sandboxes from base:1 before:"
        " see the first error about it in this run"
    )


def test_a_snapshot_that_failed_before_has_the_same_text():
    error = FailedSnapshot.of(SNAPSHOT).error()

    assert (vars(error), str(error)) == (vars(SNAPSHOT), str(SNAPSHOT))
