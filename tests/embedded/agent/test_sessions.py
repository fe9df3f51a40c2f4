"""Sessions over a real socket: what is kept from run to run, and what is not."""

import pytest

from pytest_opensandbox.embedded.agent.sessions import LONGEST_LINE_BYTES, RunFailedError, ScriptOutput
from tests.embedded.agent_process import Agent, events, texts


@pytest.fixture
def session(agent: Agent) -> str:
    """The id of a new session."""
    return str(agent.post("/session").json()["session_id"])


def run(agent: Agent, session: str, command: str, **fields: object) -> list[dict[str, object]]:
    """Run a command in a session and return its events without pings."""
    return events(agent.post(f"/session/{session}/run", json={"command": command, **fields}).content)


def test_exported_variables_and_the_directory_are_carried(agent: Agent, session: str) -> None:
    run(agent, session, "export A='x y' B=é; C=lost; cd /etc; f() { :; }")

    found = run(agent, session, 'echo "$A|$B|$C"; pwd; type f')

    assert texts(found)[:2] == ["x y|é|", "/etc"]
    assert texts(found)[2].endswith("type: f: not found")


def test_blank_lines_are_dropped_and_errors_are_output(agent: Agent, session: str) -> None:
    found = run(agent, session, r"printf '\n\na\n\nb\r\nlast' ; echo err >&2")

    assert texts(found) == ["a", "b", "lasterr"]


def test_what_a_script_exports_before_it_exits_is_lost(agent: Agent, session: str) -> None:
    found = run(agent, session, "export A=1; exit 7")

    assert found[-1]["error"]["traceback"] == ["exit status 7"]
    assert texts(run(agent, session, "echo [$A]")) == ["[]"]


def test_a_directory_of_one_run_is_carried_too(agent: Agent, session: str, tmp_path) -> None:
    run(agent, session, "true", cwd=str(tmp_path))

    assert texts(run(agent, session, "pwd")) == [str(tmp_path)]


def test_the_directory_of_a_session_is_made(agent: Agent, tmp_path) -> None:
    folder = tmp_path / "new" / "deep"

    session = agent.post("/session", json={"cwd": str(folder)}).json()["session_id"]

    assert texts(run(agent, session, "pwd")) == [str(folder)]


def test_a_timeout_is_told_by_a_bare_object_at_the_end(agent: Agent, session: str) -> None:
    found = run(agent, session, "echo before; exec sleep 60", timeout=200)

    assert texts(found[:-1]) == ["before"]
    assert found[-1] == {"code": "RUNTIME_ERROR", "message": "error running in session: timeout after 200 ms"}


def test_a_run_waits_for_whoever_holds_its_output(agent: Agent, session: str) -> None:
    """A daemon that keeps the pipe hangs the real agent's run past its timeout, and so it does here."""
    found = run(agent, session, "(sleep 0.5; echo late) & echo early", timeout=60_000)

    assert texts(found) == ["early", "late"]


def test_a_run_that_closes_its_output_is_waited_for(agent: Agent, session: str) -> None:
    found = run(agent, session, "exec >/dev/null 2>&1; sleep 0.2; exit 5")

    assert found[-1]["error"]["evalue"] == "5"


def test_an_interrupt_by_the_session_id_ends_the_session(agent: Agent, session: str) -> None:
    assert agent.delete("/command", params={"id": session}).status_code == 200

    response = agent.post(f"/session/{session}/run", json={"command": "true"})

    assert (response.status_code, response.json()["message"]) == (500, f"session {session} not found")


def test_a_session_can_be_deleted_once(agent: Agent, session: str) -> None:
    assert agent.delete(f"/session/{session}").status_code == 200

    response = agent.delete(f"/session/{session}")

    assert (response.status_code, response.json()["code"]) == (404, "CONTEXT_NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"command": ""}, id="no command"),
        pytest.param({"command": "true", "timeout": -1}, id="negative timeout"),
        pytest.param({"command": "true", "cwd": "/no/such"}, id="no such directory"),
        pytest.param({"command": 5}, id="command is a number"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(agent: Agent, session: str, body: dict[str, object]) -> None:
    response = agent.post(f"/session/{session}/run", json=body)

    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST_BODY")


@pytest.mark.parametrize(
    ("dumped", "value"),
    [
        pytest.param(b'declare -x A="x y"', "x y", id="plain"),
        pytest.param(b'declare -x A="q\\"b\\\\"', 'q"b\\', id="quote and backslash"),
        pytest.param(b'declare -x A="\\$x"', "\\$x", id="a dollar keeps its backslash, as in ExecD"),
        pytest.param(b"declare -x A", "", id="no value"),
    ],
)
def test_a_session_reads_what_bash_exports(dumped, value):
    printed = ScriptOutput()

    printed.feed(b"__ENV_DUMP_START__\n" + dumped + b"\n__ENV_DUMP_END__\n")

    assert printed.variables == {"A": value}


def test_a_session_gives_up_on_a_line_of_16_mebibytes():
    printed = ScriptOutput()
    printed.feed(b"x" * (LONGEST_LINE_BYTES - 1))

    with pytest.raises(RunFailedError):
        printed.feed(b"x")
