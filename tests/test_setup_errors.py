"""What goes wrong with a setup: the facts, one story, and what to do."""

import pickle

import pytest

from pytest_opensandbox import CommandError, SandboxError, SetupError, SnapshotFailedError

SETUP = SetupError("make", exit_code=2, stdout="out", stderr="err", sandbox_id="s1", source="base:1")
SNAPSHOT = SnapshotFailedError(sandbox_id="s1", snapshot_id="p1", reason="runtime_failed", message="no space left")


def test_a_setup_error_tells_the_command_its_end_its_output_and_what_to_do():
    text = str(SETUP)

    assert text.startswith("'make' exited with 2 as setup of the sandboxes from base:1, and is not run again")
    assert "--opensandbox-setup-timeout" in text
    assert text.endswith("--- stdout ---\nout\n--- stderr ---\nerr")


def test_a_setup_error_that_was_told_before_is_short_and_keeps_its_facts():
    error = SetupError("make", exit_code=2, stdout="out", stderr="err", source="base:1", repeated=True)

    assert (
        str(error)
        == "'make' exited with 2 as setup of the sandboxes from base:1 before: see the first error about it in this run"
    )
    assert (error.exit_code, error.stdout, error.stderr) == (2, "out", "err")


def test_a_failed_snapshot_tells_the_servers_reason():
    assert "snapshot p1 of sandbox s1 is Failed, not Ready (runtime_failed: no space left)" in str(SNAPSHOT)


def test_a_failed_snapshot_without_a_reason_says_so():
    assert "the server gives no reason" in str(SnapshotFailedError(sandbox_id="s1"))


@pytest.mark.parametrize("error", [SETUP, SNAPSHOT], ids=["setup", "snapshot"])
def test_they_travel_by_their_facts_alone(error):
    # Workers hand them to each other as JSON.
    copy = type(error)(**vars(error))

    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, SandboxError)


def test_a_setup_error_can_be_caught_as_a_commands():
    assert isinstance(SETUP, CommandError)
