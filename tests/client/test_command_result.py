"""The result of a command: text, truth, and what check() makes of it."""

import pytest

from pytest_opensandbox.client.command_result import CommandResult, read_ending
from pytest_opensandbox.errors import CommandError, CommandTimeoutError


def test_bytes_are_text_too():
    result = CommandResult("x", 0, stdout_bytes=b"a\xff\n", stderr_bytes="é".encode())

    assert (result.stdout, result.stderr) == ("a\N{REPLACEMENT CHARACTER}\n", "é")


@pytest.mark.parametrize(
    ("result", "ok"),
    [
        pytest.param(CommandResult("x", 0), True, id="0"),
        pytest.param(CommandResult("x", 3), False, id="3"),
        pytest.param(CommandResult("x", -9, signal="SIGKILL"), False, id="signal"),
        pytest.param(CommandResult("x", 0, timed_out=True), False, id="timed out"),
    ],
)
def test_ok_is_0_in_time(result, ok):
    assert result.ok is ok


def test_check_returns_a_good_result():
    result = CommandResult("x", 0)

    assert result.check() is result


def test_check_raises_with_the_command_its_exit_code_and_both_tails():
    result = CommandResult(["a", "b c"], 3, b"out\n", b"err\n", sandbox_id="s1")

    with pytest.raises(CommandError) as caught:
        result.check()

    text = str(caught.value)
    assert "['a', 'b c'] exited with 3" in text
    assert "--- stdout ---\nout" in text
    assert "--- stderr ---\nerr" in text
    assert (caught.value.exit_code, caught.value.stdout, caught.value.sandbox_id) == (3, "out\n", "s1")


def test_check_names_a_signal():
    with pytest.raises(CommandError, match="was ended by SIGSEGV"):
        CommandResult("x", -11, signal="SIGSEGV").check()


def test_a_killed_command_s_error_says_who_kills():
    with pytest.raises(CommandError, match="was ended by SIGKILL, sent in the sandbox or by the kernel"):
        CommandResult("x", -9, signal="SIGKILL").check()


def test_check_raises_a_timeout_that_is_a_timeout_error():
    result = CommandResult("x", -9, b"part", timed_out=True, duration=1.7, time_limit=1.5)

    with pytest.raises(TimeoutError) as caught:
        result.check()

    assert isinstance(caught.value, CommandTimeoutError)
    assert (caught.value.stdout, caught.value.timeout_seconds) == ("part", 1.5)
    assert "raise timeout=" in str(caught.value)


def test_a_repr_is_short_and_says_what_matters():
    result = CommandResult("x", 1, b"o" * 1000, truncated=True)

    assert repr(result).startswith("<CommandResult 'x' exit_code=1 truncated stdout=")
    assert len(repr(result)) < 200


@pytest.mark.parametrize(
    ("code", "traceback", "expected"),
    [
        pytest.param(3, ["exit status 3"], (3, None), id="exit code"),
        pytest.param(-1, ["signal: killed"], (-9, "SIGKILL"), id="killed"),
        pytest.param(-1, ["signal: terminated"], (-15, "SIGTERM"), id="terminated"),
        pytest.param(-1, ["signal: segmentation fault (core dumped)"], (-11, "SIGSEGV"), id="core dumped"),
        pytest.param(-1, ["signal: user defined signal 1"], (-10, "SIGUSR1"), id="Linux' number on any system"),
        pytest.param(-1, ["signal: signal 40"], (-1, "signal 40"), id="unknown"),
        pytest.param(-1, [], (-1, "unknown"), id="no word"),
    ],
)
def test_an_ending_is_told_as_subprocess_tells_it(code, traceback, expected):
    assert read_ending(code, traceback) == expected
