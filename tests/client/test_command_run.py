"""Commands: what is asked for, how argument lists are quoted, and what the end of one means."""

import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_opensandbox.client.command_run import (
    CapturedStream,
    CommandRequest,
    CommandRun,
    HeadTailBuffer,
    shell_text,
)
from pytest_opensandbox.client.event_stream import Event, EventError
from pytest_opensandbox.errors import CommandLostError, CommandStartError, ConfigError

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def ended(evalue: str, *traceback: str, ename: str = "CommandExecError") -> Event:
    return Event("error", error=EventError(ename, evalue, traceback))


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6))
def test_a_real_shell_gives_an_argument_list_back(words):
    text = shell_text(["printf", r"%s\0", *words])

    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, check=True)

    assert done.stdout.decode().split("\0")[:-1] == words


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["echo", r"a\tb", "-n"], id="a shell's own echo would read escapes"),
        pytest.param(["true", ";", "echo", "no"], id="a semicolon"),
        pytest.param(["env", "A=1", "sh", "-c", 'echo "$A"'], id="an assignment"),
    ],
)
def test_no_word_of_an_argument_list_meets_the_shell(argv):
    ours = subprocess.run(["/bin/sh", "-c", shell_text(argv)], capture_output=True, check=False)
    direct = subprocess.run(argv, capture_output=True, check=False)

    assert (ours.stdout, ours.returncode) == (direct.stdout, direct.returncode)


@pytest.mark.parametrize("argv", [["if"], ["A=1"], ["exit", "3"], ["cd", "/"]])
def test_what_only_a_shell_knows_is_no_program(argv):
    assert subprocess.run(["/bin/sh", "-c", shell_text(argv)], capture_output=True, check=False).returncode == 127


def test_a_request_is_sent_in_the_agents_units_and_names():
    request = CommandRequest(command="x", cwd="/w", timeout=0.0015, env={"A": ""}, uid=5, background=True)

    assert request.to_wire() == {
        "command": "x",
        "background": True,
        "cwd": "/w",
        "timeout": 2,
        "envs": {"A": ""},
        "uid": 5,
        "gid": 5,
    }


def test_what_is_not_asked_for_is_not_sent():
    assert CommandRequest(command=["a b"]).to_wire() == {"command": "exec 'a b'", "background": False}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        pytest.param("command", {"command": ""}, id="empty text"),
        pytest.param("command", {"command": []}, id="empty list"),
        pytest.param("command", {"command": ["", "a"]}, id="empty program"),
        pytest.param("command", {"command": ["-x"]}, id="an option for a program"),
        pytest.param("command", {"command": ["a", 1]}, id="a number"),
        pytest.param("command", {"command": b"a"}, id="bytes"),
        pytest.param("command", {"command": "a\0b"}, id="NUL"),
        pytest.param("command", {"command": ["a", "\udcff"]}, id="half a surrogate pair"),
        pytest.param("cwd", {"cwd": ""}, id="no directory"),
        pytest.param("cwd", {"cwd": "rel"}, id="relative"),
        pytest.param("cwd", {"cwd": Path("/w")}, id="no text"),
        pytest.param("timeout", {"timeout": "5"}, id="text for seconds"),
        pytest.param("timeout", {"timeout": 0}, id="no time"),
        pytest.param("timeout", {"timeout": float("nan")}, id="not a number"),
        pytest.param("timeout", {"timeout": float("inf")}, id="for ever, which is None"),
        pytest.param("env", {"env": {"A=B": "x"}}, id="a variable's name"),
        pytest.param("env['A']", {"env": {"A": "x\0"}}, id="a variable's value"),
        pytest.param("env['A']", {"env": {"A": 1}}, id="a number for a variable"),
        pytest.param("uid", {"uid": -1}, id="uid"),
        pytest.param("uid", {"uid": True}, id="a boolean for a uid"),
        pytest.param("gid", {"gid": 5}, id="gid alone"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_its_name(field, values):
    with pytest.raises(ConfigError) as caught:
        CommandRequest(**{"command": "true", **values})

    assert caught.value.field == field


def test_success_is_the_event_of_success_alone():
    run = CommandRun(CommandRequest(command="x"), sandbox_id="s")

    assert run.add_event(Event("init", "id7")) is None
    assert run.add_event(Event("ping", "pong")) is None
    assert run.add_event(Event("stdout", "out")) is None
    assert run.add_event(Event("surprise", "x")) is None
    result = run.add_event(Event("execution_complete"))

    assert result is not None
    assert (result.exit_code, result.stdout, result.ok, result.exact) == (0, "out", True, False)
    assert (result.command_id, result.sandbox_id) == ("id7", "s")


@pytest.mark.parametrize(
    ("timeout", "event", "timed_out"),
    [
        pytest.param(0.000001, ended("-1", "signal: killed"), True, id="killed when the time was up"),
        pytest.param(3600, ended("-1", "signal: killed"), False, id="killed before"),
        pytest.param(None, ended("-1", "signal: killed"), False, id="killed without a limit"),
        pytest.param(0.000001, ended("-1", "signal: terminated"), False, id="ended by another signal"),
        pytest.param(0.000001, ended("1"), False, id="an exit after the time"),
    ],
)
def test_a_kill_counts_as_a_timeout_only_if_the_time_was_up(timeout, event, timed_out):
    result = CommandRun(CommandRequest(command="x", timeout=timeout)).add_event(event)

    assert result is not None
    assert result.timed_out is timed_out


def test_an_error_without_a_number_before_any_output_is_a_failed_start():
    run = CommandRun(CommandRequest(command="x"))

    with pytest.raises(CommandStartError, match="could not be started: fork/exec: operation not permitted"):
        run.add_event(ended("fork/exec: operation not permitted"))


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(ended("wait: no child processes"), id="an error after output"),
        pytest.param(Event("", error=EventError("RUNTIME_ERROR", "broken")), id="a bare error object"),
    ],
)
def test_the_agents_own_trouble_is_never_an_exit_code(event):
    run = CommandRun(CommandRequest(command="x"), sandbox_id="s")
    run.add_event(Event("init", "id7"))
    run.add_event(Event("stdout", "half"))

    with pytest.raises(CommandLostError, match="gave it up") as caught:
        run.add_event(event)

    assert (caught.value.command_id, caught.value.sandbox_id) == ("id7", "s")


def test_output_beyond_the_cap_loses_its_middle():
    run = CommandRun(CommandRequest(command="x"), max_bytes=10)
    run.add_event(Event("stdout", "0123456789"))
    run.add_event(Event("stdout", "abcdef"))

    result = run.add_event(Event("execution_complete"))

    assert result is not None
    assert (result.stdout_bytes, result.truncated) == (b"01234bcdef", True)


def test_a_cap_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="max_bytes"):
        CommandRun(CommandRequest(command="x"), max_bytes=0)


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 60))
def test_a_buffer_keeps_the_beginning_and_the_end(writes, max_bytes):
    buffer = HeadTailBuffer(max_bytes)
    everything = b"".join(writes)

    for data in writes:
        buffer.write(data)

    if len(everything) <= max_bytes:
        assert (buffer.content(), buffer.truncated) == (everything, False)
    else:
        head, tail = max_bytes - max_bytes // 2, max_bytes // 2
        assert (buffer.content(), buffer.truncated) == (everything[:head] + everything[len(everything) - tail :], True)


def test_memory_does_not_grow_with_the_output():
    buffer = HeadTailBuffer(1_000_000)
    tracemalloc.start()

    for _ in range(3_000):
        buffer.write(b"x" * 10_000)
    for _ in range(100_000):
        buffer.write(b"y")

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        pytest.param(["a", "b"], b"a\nb", id="two lines"),
        pytest.param(["a", "\n", "\n", "b"], b"a\n\n\nb", id="empty lines arrive as a newline"),
        pytest.param(["\n"], b"", id="one empty line"),
        pytest.param(["\n", "a"], b"\na", id="an empty first line"),
        pytest.param([], b"", id="nothing"),
        pytest.param(["\ud800"], b"\xed\xa0\x80", id="half a surrogate pair"),
    ],
)
def test_lines_are_joined_as_they_were(lines, content):
    stream = CapturedStream(100, None)

    for line in lines:
        stream.add_line(line)

    assert stream.buffer.content() == content


def test_a_callback_gets_each_line_without_its_end():
    lines: list[str] = []
    stream = CapturedStream(100, lines.append)

    for line in ("a", "\n", "b"):
        stream.add_line(line)

    assert lines == ["a", "", "b"]
