"""Commands over a real connection: when they return, how endings differ, and what is left behind."""

import json
import os
import signal
import threading

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import BackgroundCommand
from pytest_opensandbox.errors import (
    ApiError,
    CommandLostError,
    CommandStartError,
    CommandTimeoutError,
    ConfigError,
    ProtocolError,
    TransportError,
)
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, Timeouts
from tests.scripted_servers import Reply, Server, as_events, as_json, serving

INIT = {"type": "init", "text": "id7"}
DONE = {"type": "execution_complete"}
OK = Reply(200)


def out(text: str) -> dict[str, object]:
    return {"type": "stdout", "text": text}


def failed(evalue: str, *traceback: str) -> dict[str, object]:
    return {"type": "error", "error": {"ename": "CommandExecError", "evalue": evalue, "traceback": traceback}}


def run(server: Server, command="true", *, timeouts=DEFAULT_TIMEOUTS, **options):
    with Client("http://127.0.0.1:1", timeouts=timeouts) as client:
        return client.run_command(Endpoint(server.url, sandbox_id="s1"), command, **options)


def calls(server: Server) -> list[str]:
    return [f"{seen.method} {seen.path}" for seen in server.seen]


def test_a_command_is_asked_for_as_the_agent_wants_it():
    with serving(as_events(INIT, DONE)) as server:
        result = run(server, ["echo", "a b"], cwd="/w", timeout=1.5, env={"A": "1"}, uid=7, gid=8)

    (seen,) = server.seen
    assert (seen.method, seen.path, seen.headers["Accept"]) == ("POST", "/command", "text/event-stream")
    assert seen.json == {
        "command": "exec echo 'a b'",
        "cwd": "/w",
        "timeout": 1500,
        "envs": {"A": "1"},
        "uid": 7,
        "gid": 8,
        "background": False,
    }
    assert (result.command, result.sandbox_id, result.command_id) == (["echo", "a b"], "s1", "id7")


# The agent keeps the connection open for a second after the last event: waiting for its end would cost that each time.
def test_it_returns_at_the_terminal_event_and_closes_the_connection():
    held = threading.Event()
    with serving(as_events(INIT, out("x"), DONE, held, *[b"x" * 1_000_000] * 40)) as server:
        result = run(server)
        before_the_end = not held.is_set()
        held.set()
        gone = server.gone.wait(10)

    assert (result.stdout, before_the_end, gone) == ("x", True, True)


def test_lines_are_handed_on_while_the_command_runs():
    held = threading.Event()
    lines: list[str] = []

    def on_stdout(line: str) -> None:
        lines.append(line)
        held.set()

    with serving(as_events(INIT, out("first"), held, out("second"), DONE)) as server:
        result = run(server, on_stdout=on_stdout)

    assert lines == ["first", "second"]
    assert result.stdout == "first\nsecond"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="chunked"),
        pytest.param({"framing": "close"}, id="to the end of the connection"),
        pytest.param({"framing": "length"}, id="with a length"),
    ],
)
def test_any_framing_of_the_body_will_do(how):
    with serving(as_events(INIT, out("a"), DONE, **how)) as server:
        assert run(server).stdout == "a"


def test_data_fields_cut_anywhere_will_do():
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in (INIT, out("é"), DONE))
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    with serving(Reply(200, pieces, framing="chunked")) as server:
        assert run(server).stdout == "é"


@pytest.mark.parametrize(
    ("event", "exit_code", "signal"),
    [
        pytest.param(DONE, 0, None, id="success"),
        pytest.param(failed("3", "exit status 3"), 3, None, id="exit code"),
        pytest.param(failed("-1", "signal: killed"), -9, "SIGKILL", id="signal"),
    ],
)
def test_endings_are_told_apart(event, exit_code, signal):
    with serving(as_events(INIT, event)) as server:
        result = run(server, timeout=60)

    assert (result.exit_code, result.signal, result.timed_out) == (exit_code, signal, False)


def test_the_agents_own_time_limit_is_a_result_that_says_so():
    with serving(as_events(INIT, out("part"), failed("-1", "signal: killed"))) as server:
        result = run(server, timeout=0.000001)

    assert (result.timed_out, result.stdout, result.ok) == (True, "part", False)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(as_events(INIT, failed("fork/exec /bin/bash: operation not permitted")), id="as an event"),
        pytest.param(
            as_json({"code": "RUNTIME_ERROR", "message": "operation not permitted"}, 500),
            id="as a status, before events",
        ),
    ],
)
def test_a_command_that_could_not_be_started_never_ran(reply):
    with serving(reply) as server, pytest.raises(CommandStartError, match="operation not permitted"):
        run(server)

    assert len(server.seen) == 1


def test_a_refusal_is_the_agents_error():
    with (
        serving(as_json({"code": "INVALID_REQUEST_BODY", "message": "no such directory"}, 400)) as server,
        pytest.raises(ApiError, match="no such directory"),
    ):
        run(server, cwd="/none")


STREAMS_THAT_END_TOO_SOON = [
    pytest.param(as_events(INIT, out("half"), framing="close"), id="ends with its connection"),
    pytest.param(as_events(INIT, out("half"), drop="after"), id="breaks"),
    pytest.param(as_events(INIT, b'{"type":"execution_comp'), id="in the middle of the last event"),
    pytest.param(as_events(INIT, b'{"code":"RUNTIME_ERROR","message":"x"}'), id="with the agent's own error"),
]


# A stream that was cut must never count as exit code 0, and a command is never run twice.
@pytest.mark.parametrize("stream", STREAMS_THAT_END_TOO_SOON)
def test_a_stream_that_ends_too_soon_is_a_lost_command(stream):
    status = as_json({"id": "id7", "running": False, "exit_code": 0})
    with serving(stream, status) as server, pytest.raises(CommandLostError, match="exited with 0") as caught:
        run(server)

    assert calls(server) == ["POST /command", "GET /command/status/id7"]
    assert (caught.value.command_id, caught.value.sandbox_id) == ("id7", "s1")


# Agents before 1.0.18 drop the last event of one command in a hundred; all its output has come before that.
@pytest.mark.parametrize(
    ("status", "ending"),
    [
        pytest.param({"running": False, "exit_code": 0}, (0, None), id="success"),
        pytest.param({"running": False, "exit_code": 3, "error": "exit status 3"}, (3, None), id="failure"),
        pytest.param({"running": False, "exit_code": -1, "error": "signal: killed"}, (-9, "SIGKILL"), id="signal"),
    ],
)
def test_an_end_that_was_not_told_is_asked_for(status, ending):
    with serving(as_events(INIT, out("all of it")), as_json({"id": "id7", **status})) as server:
        result = run(server)

    assert (result.exit_code, result.signal, result.stdout) == (*ending, "all of it")
    assert calls(server) == ["POST /command", "GET /command/status/id7"]


@pytest.mark.parametrize("exit_code", [None, "0", 1.0, True, 256, -2, []])
def test_an_end_that_makes_no_sense_is_not_believed(exit_code):
    status = as_json({"id": "id7", "running": False, "exit_code": exit_code})
    with serving(as_events(INIT, out("all of it")), status) as server, pytest.raises(CommandLostError):
        run(server)


@pytest.mark.parametrize("stream", [*STREAMS_THAT_END_TOO_SOON, pytest.param(as_events(INIT, out("all")), id="ends")])
@pytest.mark.parametrize(
    "status",
    [
        pytest.param(as_json({"id": "id7", "running": True}), id="running"),
        pytest.param(as_json({"code": "x", "message": "command not found"}, 404), id="unknown"),
        pytest.param(Reply(200, b"nonsense"), id="no status"),
    ],
)
def test_a_lost_command_that_may_still_run_is_ended(stream, status):
    with serving(stream, status, OK) as server, pytest.raises(CommandLostError):
        run(server)

    assert calls(server)[-1] == "DELETE /command"
    assert server.seen[-1].query == [("id", "id7")]


def test_an_answer_without_any_event_is_a_lost_command():
    with serving(Reply(200, b"<html>gateway</html>")) as server, pytest.raises(CommandLostError):
        run(server)

    assert calls(server) == ["POST /command"]


def test_an_id_that_climbs_stays_in_its_place():
    with (
        serving(as_events({"type": "init", "text": "../../x?y"}), as_json({})) as server,
        pytest.raises(CommandLostError),
    ):
        run(server)

    assert calls(server)[1] == "GET /command/status/..%2F..%2Fx%3Fy"


@pytest.mark.parametrize("broken", [b"{nope}\n\n", b'{"a":\n'])
def test_events_that_are_not_json_are_an_error_and_the_command_is_ended(broken):
    with serving(as_events(INIT, broken), OK) as server, pytest.raises(ProtocolError, match="not JSON"):
        run(server)

    assert calls(server) == ["POST /command", "DELETE /command"]


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ValueError])
def test_whatever_interrupts_the_wait_ends_the_command(error):
    held = threading.Event()

    def on_stdout(line: str) -> None:
        raise error(line)

    with serving(as_events(INIT, out("x"), held), OK) as server:
        with pytest.raises(error):
            run(server, on_stdout=on_stdout)
        held.set()

    assert calls(server) == ["POST /command", "DELETE /command"]


class CtrlC:
    """Sends SIGINT to this process while the client waits for bytes, and holds the rest back until it is over."""

    def __init__(self) -> None:
        self.printed = threading.Event()
        self.over = threading.Event()

    def wait(self, timeout: float) -> object:
        self.printed.wait(timeout)
        os.kill(os.getpid(), signal.SIGINT)
        return self.over.wait(timeout)


def test_ctrl_c_while_nothing_comes_ends_the_command():
    pressed = CtrlC()
    with serving(as_events(INIT, out("x"), pressed), OK) as server:
        with pytest.raises(KeyboardInterrupt):
            run(server, on_stdout=lambda line: pressed.printed.set())
        pressed.over.set()

    assert calls(server) == ["POST /command", "DELETE /command"]


def test_a_command_that_cannot_be_ended_does_not_hide_why_it_should_be():
    def on_stdout(line: str) -> None:
        raise ValueError("the reason")

    with (
        serving(as_events(INIT, out("x")), as_json({"code": "x"}, 400)) as server,
        pytest.raises(ValueError, match="the reason"),
    ):
        run(server, on_stdout=on_stdout)


# The agent may not keep its time limit; the test would then hang for ever.
def test_a_command_that_outlives_limit_and_grace_is_ended_with_its_output():
    held = threading.Event()
    with serving(as_events(INIT, out("part"), held), OK) as server:
        with pytest.raises(CommandTimeoutError) as caught:
            run(server, "sleep 60", timeout=0.1, timeouts=Timeouts(grace_seconds=0.2))
        held.set()

    assert (caught.value.stdout, caught.value.timeout_seconds) == ("part", 0.1)
    assert calls(server) == ["POST /command", "DELETE /command"]


def test_pings_do_not_stretch_the_deadline():
    pings = [b'{"type":"ping"}\n\n'] * 20_000
    with serving(as_events(INIT, *pings, threading.Event()), OK) as server, pytest.raises(CommandTimeoutError):
        run(server, timeout=0.05, timeouts=Timeouts(grace_seconds=0.1))


# The agent pings every 3 s, so silence means that the connection is dead although neither side closed it.
def test_silence_is_a_lost_command():
    held = threading.Event()
    with serving(as_events(INIT, held), as_json({"running": True}), OK) as server:
        with pytest.raises(CommandLostError, match=r"no byte within 0\.2 s"):
            run(server, timeouts=Timeouts(silence_seconds=0.2))
        held.set()


def test_an_agent_that_accepts_a_command_and_says_nothing_is_no_answer():
    held = threading.Event()
    with serving(as_events(held, DONE)) as server:
        with pytest.raises(TransportError, match=r"no byte within 0\.2 s"):
            run(server, timeouts=Timeouts(first_byte_seconds=0.2))
        held.set()


def test_a_background_command_returns_with_its_id():
    with serving(as_events(INIT, DONE)) as server:
        result = run(server, background=True)

    assert server.seen[0].json["background"] is True
    assert result.command_id == "id7"


# It said exit_code=0 and ok of what had just begun.
def test_a_background_command_says_nothing_of_how_it_ends():
    with serving(as_events(INIT, DONE)) as server:
        result = run(server, "sleep 9", background=True)

    assert isinstance(result, BackgroundCommand)
    assert (result.exit_code, result.ok, result.signal) == (None, False, None)
    assert repr(result) == "<BackgroundCommand 'sleep 9' command_id='id7'>"
    with pytest.raises(CommandLostError, match="how it ends is not known") as caught:
        result.check()
    assert caught.value.command_id == "id7"


def test_a_background_command_whose_beginning_alone_is_told_goes_on():
    with serving(as_events(INIT)) as server:
        assert run(server, background=True).command_id == "id7"

    assert calls(server) == ["POST /command"]


@pytest.mark.parametrize(
    ("reply", "was_running"),
    [
        pytest.param(OK, True, id="running"),
        pytest.param(as_json({"code": "RUNTIME_ERROR", "message": "is not running"}, 500), False, id="ended"),
        pytest.param(as_json({"code": "RUNTIME_ERROR", "message": "no such session"}, 500), False, id="unknown"),
    ],
)
def test_interrupt_says_whether_there_was_something_to_end(reply, was_running):
    with serving(reply) as server, Client("http://127.0.0.1:1") as client:
        assert client.interrupt(server.url, "id7") is was_running


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(as_json({"code": "DOCKER::SANDBOX_NOT_FOUND", "message": "gone"}, 404), id="no such sandbox"),
        pytest.param(as_json({"code": "DOCKER::UNKNOWN", "message": "engine is gone"}, 500), id="the server failed"),
        pytest.param(Reply(500, b"<html>gateway</html>"), id="a gateway failed"),
    ],
)
def test_interrupt_does_not_take_other_errors_for_a_command_that_has_ended(reply):
    with serving(reply) as server, Client("http://127.0.0.1:1") as client, pytest.raises(ApiError):
        client.interrupt(server.url, "id7")


# It was a ValueError, from below the HTTP library.
@pytest.mark.parametrize("url", ["http://[", "h", "ftp://h", "http://h:99999", "ftp://me:hunter2@h", "//me:hunter2@["])
def test_an_endpoint_without_a_url_of_http_is_refused(url):
    with Client("http://127.0.0.1:1") as client, pytest.raises(ConfigError, match="endpoint must have a URL") as caught:
        client.ping(Endpoint(url))

    assert "hunter2" not in str(caught.value)


def test_ping_returns_or_raises():
    with serving(OK, Reply(502, b"Bad Gateway")) as server, Client("http://127.0.0.1:1") as client:
        client.ping(server.url)

        with pytest.raises(ApiError, match="502"):
            client.ping(server.url)


def test_an_argument_that_breaks_a_rule_is_not_sent():
    with serving() as server, pytest.raises(ConfigError, match="gid"):
        run(server, gid=5)

    assert server.seen == []


def test_output_of_several_megabytes_on_one_line_is_cut_in_the_middle():
    line = json.dumps(out("a" * 3_000_000 + "b" * 3_000_000)).encode() + b"\n\n"
    pieces = [line[at : at + 50_000] for at in range(0, len(line), 50_000)]
    with serving(as_events(INIT, *pieces, DONE)) as server:
        result = run(server, max_bytes=1000)

    assert (result.stdout, result.truncated) == ("a" * 500 + "b" * 500, True)
