"""A record keeps what a report needs of a command, and no more."""

import time

import pytest

from pytest_opensandbox import CommandError, CommandResult, NotFoundError
from pytest_opensandbox.sandbox.history import TAIL_BYTES, record_copy, record_error, record_move, record_result


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        pytest.param(CommandResult("x", 0), "exit 0", id="success"),
        pytest.param(CommandResult("x", 3), "exit 3", id="exit code"),
        pytest.param(CommandResult("x", -9, signal="SIGKILL"), "SIGKILL", id="signal"),
        pytest.param(CommandResult("x", -9, signal="SIGKILL", timed_out=True), "timed out", id="time limit"),
    ],
)
def test_a_record_says_how_a_command_ended(result, outcome):
    assert record_result(result, time.monotonic()).outcome == outcome


def test_a_record_keeps_only_the_end_of_a_long_output():
    result = CommandResult("x", 0, stdout_bytes=b"a" * 5000 + b"end")

    record = record_result(result, time.monotonic())

    assert len(record.stdout_tail) == TAIL_BYTES
    assert record.stdout_tail.endswith("aend")


def test_a_record_of_an_error_names_its_class_and_what_was_written():
    record = record_error("x", time.monotonic(), CommandError("x", exit_code=1, stdout="out", stderr="err"))

    assert (record.outcome, record.stdout_tail, record.stderr_tail) == ("CommandError", "out", "err")


def test_a_record_of_an_interrupt_has_no_output():
    record = record_error(["sleep", "1"], time.monotonic(), KeyboardInterrupt())

    assert (record.command, record.outcome, record.stdout_tail) == (["sleep", "1"], "KeyboardInterrupt", "")


def test_a_record_of_a_copy_says_that_it_is_one():
    done = record_copy("put 3 bytes -> /x", time.monotonic())
    failed = record_error("get /y", time.monotonic(), NotFoundError(404, message="no such file"), is_copy=True)

    assert (done.command, done.outcome, done.is_copy) == ("put 3 bytes -> /x", "done", True)
    assert (failed.command, failed.outcome, failed.is_copy) == ("get /y", "NotFoundError", True)


def test_a_move_is_a_note_and_no_command():
    record = record_move("a", "b")

    assert (record.is_note, record.is_copy, record.outcome) == (True, False, "moved")
    assert "moved from a to b" in record.command
