"""Errors stay readable: what is long is shortened, what is ours is not shown, and what to do stands at the end."""

import pytest

from pytest_opensandbox.client.command_result import BackgroundCommand, CommandResult
from pytest_opensandbox.client.command_run import CommandRequest, CommandRun
from pytest_opensandbox.client.event_stream import Event, EventError
from pytest_opensandbox.errors import CommandError, CommandStartError, CommandTimeoutError, ConfigError, TransportError
from pytest_opensandbox.transport.transport import Transport
from tests.scripted_servers import Reply, serving

LONG = "x" * 200_000
LONGEST = 5_000


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(CommandStartError(LONG, why=LONG), id="not started"),
        pytest.param(CommandStartError(["true", LONG], why="no"), id="a list that is not started"),
        pytest.param(CommandError(LONG, exit_code=1, stdout=LONG, stderr=LONG), id="failed"),
        pytest.param(CommandTimeoutError(LONG, timeout_seconds=1), id="out of time"),
        pytest.param(CommandRun(CommandRequest(command=LONG)).lost_error("broken"), id="lost"),
        pytest.param(ConfigError("command", "be short", LONG), id="refused"),
        pytest.param(repr(CommandResult(LONG, 0)), id="a result"),
        pytest.param(repr(BackgroundCommand(LONG)), id="in the background"),
    ],
)
def test_a_long_command_does_not_make_a_long_error(shown):
    assert len(str(shown)) < LONGEST
    assert "characters]" in str(shown)


def test_what_an_error_carries_is_not_shortened():
    assert CommandStartError(LONG, why="no").command == LONG


@pytest.mark.parametrize(
    ("why", "advice"),
    [
        ("fork/exec /usr/bin/bash: argument list too long", "put()"),
        ("fork/exec /usr/bin/bash: Resource temporarily unavailable", "too many processes"),
        ("fork/exec /usr/bin/bash: cannot allocate memory", "resources="),
        ("open /tmp/x.stdout: no space left on device", "disk is full"),
    ],
)
def test_a_command_that_could_not_be_started_says_what_helps(why, advice):
    run = CommandRun(CommandRequest(command="true"))

    with pytest.raises(CommandStartError, match=why.replace("/", ".")) as caught:
        run.add_event(Event("error", error=EventError("CommandExecError", why)))

    assert advice in str(caught.value)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_that_breaks_off_is_told_in_plain_words(framing):
    with (
        serving(Reply(200, b"half", framing=framing, promised=100, drop="after")) as server,
        pytest.raises(TransportError, match="the connection ended in the middle of the response"),
    ):
        Transport(server.url).request("GET", "/x").read()
