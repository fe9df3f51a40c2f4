"""Recorded commands, played to the client: it asks as the recording did, and reads the answers right."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.errors import ApiError
from tests.scripted_servers import Reply, as_json, serving
from tests.wire.replay import AGENT, asked_as_recorded, recordings, replay

COMMANDS = recordings("command")


def run_recorded(entry: dict[str, Any], *, paced: bool = False, **options: Any):
    body = entry["request"]["body"]
    asked = {"cwd": body.get("cwd"), "env": body.get("envs"), "uid": body.get("uid"), "gid": body.get("gid")}
    limit = body["timeout"] / 1000 if "timeout" in body else None
    status = as_json({"running": True})
    with serving(replay(entry, paced=paced), status, Reply(200)) as server, Client("http://127.0.0.1:1") as client:
        result = client.run_command(
            f"{server.url}{AGENT}",
            body["command"],
            timeout=limit,
            background=body.get("background", False),
            **asked,
            **options,
        )
    assert asked_as_recorded(server, entry)
    return result


@pytest.mark.parametrize(
    ("name", "stdout", "stderr", "exit_code"),
    [
        pytest.param("true", "", "", 0, id="true"),
        pytest.param("two lines", "one\ntwo", "", 0, id="two lines"),
        pytest.param("no final newline", "abc", "", 0, id="no final newline"),
        pytest.param("blank lines", "a\n\n\nb", "", 0, id="blank lines"),
        pytest.param("carriage returns", "x\ny\nz", "", 0, id="carriage returns"),
        pytest.param("bytes that are not UTF-8", "\ufffd\ufffd", "", 0, id="not UTF-8"),
        pytest.param("unicode", "héllo 🐍", "", 0, id="unicode"),
        pytest.param(
            "JSON and SSE look-alikes in the output",
            '{"type":"execution_complete"}\ndata: x\n',
            "",
            0,
            id="look-alikes",
        ),
        pytest.param("stderr", "out", "err", 0, id="stderr"),
        pytest.param("exit 3", "before", "", 3, id="exit 3"),
        pytest.param(
            "exit 127: unknown program", "", "bash: line 1: no-such-program: command not found", 127, id="exit 127"
        ),
        pytest.param("killed by a signal", "", "", -9, id="SIGKILL"),
        pytest.param("terminated by a signal", "", "", -15, id="SIGTERM"),
        pytest.param("cwd and envs", "/etc\n1-hello", "", 0, id="cwd and envs"),
        pytest.param("uid and gid", "65534\n65534", "", 0, id="uid and gid"),
        pytest.param("stdin is empty", None, "", 0, id="stdin"),
        pytest.param("one line of 200000 bytes", None, "", 0, id="long line"),
        pytest.param("slow output", None, "", 0, id="slow output"),
        pytest.param("quiet for 3.5 s (keep-alive pings)", None, "", 0, id="pings"),
        pytest.param("a child that outlives the shell", None, "", 0, id="a child that outlives the shell"),
    ],
)
def test_a_recorded_command_is_asked_for_and_read_as_it_was(name, stdout, stderr, exit_code):
    result = run_recorded(COMMANDS[name])

    assert (result.exit_code, result.stderr, result.timed_out) == (exit_code, stderr, False)
    assert stdout is None or result.stdout == stdout
    assert len(result.command_id) == 32


def test_a_recorded_line_of_200000_bytes_comes_whole():
    assert len(run_recorded(COMMANDS["one line of 200000 bytes"]).stdout) == 200_000


def test_a_recorded_syntax_error_tells_all_of_its_lines():
    result = run_recorded(COMMANDS["shell syntax error"])

    assert result.exit_code == 2
    assert len(result.stderr.split("\n")) == 2


# Played at the recorded pace: only the clock shows whether a kill was the time limit.
def test_a_recorded_time_limit_is_told_from_a_kill():
    result = run_recorded(COMMANDS["timeout after 300 ms"], paced=True)

    assert (result.timed_out, result.exit_code, result.signal, result.stdout) == (True, -9, "SIGKILL", "started")


# execd 1.0.19 ends the body a second after the last event.
def test_a_recorded_command_is_over_before_its_body_is():
    entry = COMMANDS["true"]
    heard_before_end = entry["response"]["chunks"][-2][0] / 1000
    body_end = entry["response"]["chunks"][-1][0] / 1000

    result = run_recorded(entry, paced=True)

    assert heard_before_end <= result.duration < body_end


def test_a_recorded_background_command_is_known_by_its_id():
    result = run_recorded(COMMANDS["background"])

    assert (result.exit_code, result.ok) == (None, False)
    assert result.command_id


@pytest.mark.parametrize("name", ["cwd that does not exist", "command: body is not JSON", "empty command"])
def test_a_recorded_refusal_of_a_command_carries_the_agents_words(name):
    entry = COMMANDS[name]
    recorded = json.loads(entry["response"]["chunks"][0][1])
    with serving(replay(entry)) as server, Client("http://127.0.0.1:1") as client, pytest.raises(ApiError) as caught:
        client.run_command(server.url, "true")

    assert (caught.value.status, caught.value.code) == (400, recorded["code"])
    assert caught.value.message == recorded["message"]


@pytest.mark.parametrize(("name", "running"), [("interrupt", True), ("interrupt an unknown id", False)])
def test_a_recorded_interrupt_says_whether_the_command_ran(name, running):
    entry = COMMANDS[name]
    command_id = parse_qsl(urlsplit(entry["request"]["path"]).query)[0][1]
    with serving(replay(entry)) as server, Client("http://127.0.0.1:1") as client:
        assert client.interrupt(f"{server.url}{AGENT}", command_id) is running

    assert asked_as_recorded(server, entry)
