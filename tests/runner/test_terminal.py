"""The bridge gives a command a terminal of its own."""

import time
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed

from pytest_opensandbox.sandbox.runner_protocol import encode_request


@pytest.fixture
def terminal(bridge):
    """Open a terminal; what it shows until a text, or the end, is read by ``until``."""
    with ExitStack() as stack:

        def start(*fields):
            client = stack.enter_context(bridge.connect("terminal"))
            client.send(encode_request("terminal", "0" * 16, "", fields))
            return client

        yield start


def until(client, text=None):
    """Return what is shown until a text, or until the end."""
    shown = ""
    while text is None or text not in shown:
        message = client.recv(10)
        if isinstance(message, str):
            return f"{shown}<{message}>"
        shown += message.decode()
    return shown


@pytest.mark.parametrize(
    ("command", "end"),
    [
        pytest.param("exit 7", "<end 1792>", id="an exit code"),
        pytest.param("kill -9 $$", "<end 9>", id="a signal"),
        pytest.param("tty >/dev/null && [ -t 0 ] && [ -t 1 ] && [ -t 2 ]", "<end 0>", id="a terminal on all streams"),
        pytest.param("echo hi", "hi\r\n<end 0>", id="output"),
        pytest.param("stty size", "24 80\r\n<end 0>", id="the usual size"),
        pytest.param("setsid sleep 20 & echo left", "left\r\n<end 0>", id="a daemon that holds it"),
    ],
)
def test_a_command_in_a_terminal_ends_with_its_status(terminal, command, end):
    assert until(terminal(("s", command))) == end


def test_a_list_runs_without_a_shell(terminal):
    assert until(terminal(("a", "printf"), ("a", "%s"), ("a", "$HOME"))) == "$HOME<end 0>"


def test_without_a_command_a_shell_waits_for_input(terminal):
    client = terminal(("e", "PS1=> "), ("e", "TERM=dumb"))
    client.send(b"echo $((6 * 7)); exit 3\n")

    assert "42\r\n" in (shown := until(client))
    assert shown.endswith("<end 768>")


def test_what_is_typed_is_shown_and_read(terminal):
    client = terminal(("s", "read line; echo got $line"))
    client.send(b"some text\n")

    assert until(client) == "some text\r\ngot some text\r\n<end 0>"


def test_control_c_reaches_the_command_in_front(terminal):
    client = terminal(("s", "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.1; done"))
    until(client, "ready")
    client.send(b"\x03")

    assert until(client).endswith("interrupted\r\n<end 1024>")


def test_a_new_size_is_signalled(terminal):
    client = terminal(
        ("s", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done"), ("r", 30), ("w", 90)
    )
    until(client, "ready")
    client.send("size 40 132")

    assert until(client).endswith("40 132\r\n<end 0>")


def test_a_lost_connection_ends_the_command(terminal, tmp_path):
    client = terminal(("s", f"trap 'echo bye >{tmp_path}/end; exit' HUP; echo ready; while :; do sleep 0.1; done"))
    until(client, "ready")
    client.close()
    for _ in range(100):
        if (tmp_path / "end").exists():
            break
        time.sleep(0.05)

    assert (tmp_path / "end").read_text() == "bye\n"


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"nonsense", id="nonsense"),
        pytest.param("text", id="a text"),
        pytest.param(b"x" * 100_000, id="too long"),
    ],
)
def test_a_first_message_that_is_no_request_starts_nothing(bridge, first):
    with bridge.connect("terminal") as client:
        client.send(first)
        assert client.recv(10) == "fail request 22"
        with pytest.raises(ConnectionClosed):
            client.recv(10)


def test_a_program_that_is_not_there_is_named(terminal):
    shown = until(terminal(("a", "no-such-program")))

    assert shown == "cannot start: exec, error 2\r\n<end 32512>"
