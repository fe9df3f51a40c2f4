"""Errors of a setup: the facts, one text, and what to do."""

import pickle

import pytest

from pytest_opensandbox import CommandError, SandboxError, SetupError, SnapshotFailedError

SETUP = SetupError("make", exit_code=2, stdout="out", stderr="err", sandbox_id="s1", source="base:1")
SNAPSHOT = SnapshotFailedError(sandbox_id="s1", snapshot_id="p1", reason="runtime_failed", message="no space left")


def test_a_setup_error_tells_the_command_its_end_its_output_and_what_to_do():
    text = str(SETUP)

    assert text.startswith("'make' exited with 2 as setup of the sandboxes from base:1, and is not run again")
    assert 'try the command in a sandbox without a setup (setup="")\n' in text
    assert text.endswith("--- stdout ---\nout\n--- stderr ---\nerr")


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        pytest.param(
            {"exit_code": -9, "why": "was ended after 9 s, its time limit"}, "--opensandbox-setup-", id="time"
        ),
        pytest.param({"exit_code": -9}, "raise the limit with resources= or --opensandbox-resources", id="memory"),
        pytest.param({"exit_code": 127}, "the image lacks the program", id="no program"),
        pytest.param({"exit_code": 126}, "make the program executable", id="no permission"),
        pytest.param(
            {"exit_code": 2, "stderr": "make: x: No such file or directory"}, "missing file with put=", id="no file"
        ),
        pytest.param({"exit_code": 1}, 'without a setup (setup="")', id="anything else"),
    ],
)
def test_each_failure_of_a_setup_has_the_one_advice_that_helps(facts, advice):
    text = str(SetupError("make", source="base:1", **facts))

    all_of_them = ("--opensandbox-setup-", "raise the limit", "lacks the", "executable", "with put=", 'setup=""')
    assert advice in text
    assert sum(one in text for one in all_of_them) == 1


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
def test_they_can_be_pickled(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, SandboxError)


def test_a_setup_error_can_be_caught_as_a_commands():
    assert isinstance(SETUP, CommandError)
