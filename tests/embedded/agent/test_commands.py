"""Commands over a real socket: how they end, what they leave, and what happens when the client goes away."""

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import requests

from tests.embedded.agent_process import Agent, events, eventually, exists, running_agent, texts

NAMESPACE = ("unshare", "--user", "--map-root-user")


def cut_off(agent: Agent, path: str, body: bytes) -> None:
    """Send a request, wait for the first bytes of the answer, and close the connection."""
    host, _, port = agent.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        while b'"init"' not in connection.recv(4096):
            pass


@pytest.mark.parametrize(
    ("command", "value", "trace"),
    [
        pytest.param("exit 3", "3", "exit status 3", id="exit code"),
        pytest.param("kill -9 $$", "-1", "signal: killed", id="killed"),
        pytest.param("kill -HUP $$", "-1", "signal: hangup", id="hung up"),
        pytest.param("kill -XCPU $$", "-1", "signal: CPU time limit exceeded", id="capitals stay"),
        pytest.param("bash -c 'kill -9 $$'; exit $?", "137", "exit status 137", id="a child was killed"),
        pytest.param("no-such-program", "127", "exit status 127", id="not found"),
    ],
)
def test_a_failed_command_says_how_it_ended(agent: Agent, command: str, value: str, trace: str) -> None:
    *_, last = agent.run(f"ulimit -c 0; {command}")

    assert last["error"] == {"ename": "CommandExecError", "evalue": value, "traceback": [trace]}


def test_a_program_and_its_arguments_never_meet_a_shell(agent: Agent) -> None:
    response = agent.post("/command", json={"argv": ["printf", "%s|", "$HOME", "a b", "'"]})

    assert texts(events(response.content)) == ["$HOME|a b|'|"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param({"argv": ["true"], "command": "true"}, "exclude each other", id="command and argv"),
        pytest.param({"argv": [""]}, "argv[0] is empty", id="empty program"),
        pytest.param({"command": "true", "timeout": -1}, "timeout must not be negative", id="negative timeout"),
        pytest.param({"command": "true", "cwd": "/etc/passwd"}, "not a directory", id="directory is a file"),
        pytest.param({"command": "true", "cwd": "$NO_SUCH"}, "undefined environment", id="unknown variable"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(agent: Agent, body: dict[str, object], complaint: str) -> None:
    response = agent.post("/command", json=body)

    assert response.status_code == 400
    assert response.json()["code"] == "INVALID_REQUEST_BODY"
    assert complaint in response.json()["message"]


def test_a_program_that_does_not_exist_is_an_error_without_exit_code(agent: Agent) -> None:
    found = events(agent.post("/command", json={"argv": ["no-such-program"]}).content)

    assert [event["type"] for event in found] == ["init", "error"]
    assert found[-1]["error"]["evalue"] == "no-such-program: no such file or directory"
    assert agent.get(f"/command/status/{found[0]['text']}").status_code == 404


def test_output_leaves_no_file_in_the_temporary_directory(tmp_path) -> None:
    with running_agent(environment={"TMPDIR": str(tmp_path)}) as agent:
        found = agent.run(f"echo some; ls -A {tmp_path}")

        assert texts(found) == ["some"]


def test_a_command_may_remove_the_temporary_directory(tmp_path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with running_agent(environment={"TMPDIR": str(folder)}) as agent:
        found = agent.run(f"echo before; rm -r {folder}; echo after")

        assert texts(found) == ["before", "after"]
        assert texts(agent.run("echo again")) == ["again"]


def test_a_timeout_kills_the_children_too(agent: Agent) -> None:
    found = agent.run("sleep 60 & echo $!; wait", timeout=300)

    child = int(texts(found)[0])
    assert found[-1]["error"]["traceback"] == ["signal: killed"]
    assert eventually(lambda: not exists(child))


def test_a_child_outlives_a_command_in_the_foreground(agent: Agent) -> None:
    child = int(texts(agent.run("sleep 60 & echo $!"))[0])

    assert exists(child)
    os.kill(child, 9)


def test_a_child_dies_with_a_command_in_the_background(agent: Agent) -> None:
    identifier = agent.start("sleep 60 & echo $!")

    output = eventually(lambda: agent.get(f"/command/{identifier}/logs").text)

    assert eventually(lambda: not exists(int(output)))


def test_an_interrupt_reaches_the_whole_group(agent: Agent) -> None:
    identifier = agent.start("sleep 60 & echo $!; wait")
    child = int(eventually(lambda: agent.get(f"/command/{identifier}/logs").text))

    response = agent.delete("/command", params={"id": identifier})

    assert response.status_code == 200
    assert not exists(child)
    assert agent.status(identifier)["error"] == "signal: terminated"


def test_an_interrupt_kills_what_ignores_it(agent: Agent) -> None:
    identifier = agent.start("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    eventually(lambda: agent.get(f"/command/{identifier}/logs").text)

    agent.delete("/command", params={"id": identifier})

    assert agent.status(identifier)["error"] == "signal: killed"


def test_a_command_that_has_ended_cannot_be_interrupted(agent: Agent) -> None:
    identifier = agent.run("true")[0]["text"]

    response = agent.delete("/command", params={"id": identifier})

    assert response.status_code == 500
    assert response.json()["message"].endswith(f"command {identifier} is not running")


def test_logs_can_be_followed_by_their_cursor(agent: Agent, tmp_path) -> None:
    go = tmp_path / "go"
    identifier = agent.start(f"echo é; until [ -e {go} ]; do sleep 0.01; done; echo two")
    first = eventually(lambda: (answer := agent.get(f"/command/{identifier}/logs")).content and answer)
    go.touch()
    eventually(lambda: not agent.status(identifier)["running"])

    second = agent.get(f"/command/{identifier}/logs?cursor={first.headers['EXECD-COMMANDS-TAIL-CURSOR']}")

    assert first.content + second.content == "é\ntwo\n".encode()
    assert second.headers["EXECD-COMMANDS-TAIL-CURSOR"] == "7"


@pytest.mark.parametrize(
    ("cursor", "status", "following"),
    [
        pytest.param("99", 200, "99", id="past the end is echoed"),
        pytest.param("x", 200, "3", id="no number counts as 0"),
        pytest.param("-1", 400, None, id="negative"),
    ],
)
def test_a_cursor_that_makes_no_sense(agent: Agent, cursor: str, status: int, following: str | None) -> None:
    identifier = agent.start("echo hi")
    eventually(lambda: not agent.status(identifier)["running"])

    response = agent.get(f"/command/{identifier}/logs", params={"cursor": cursor})

    assert response.status_code == status
    assert response.headers.get("EXECD-COMMANDS-TAIL-CURSOR") == following


def test_logs_are_for_the_background_only(agent: Agent) -> None:
    identifier = agent.run("echo hi")[0]["text"]

    response = agent.get(f"/command/{identifier}/logs")

    assert (response.status_code, response.json()["message"]) == (
        400,
        f"command {identifier} is not running in background",
    )


def test_a_client_that_goes_away_does_not_stop_a_command(agent: Agent, tmp_path) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    command = f"until [ -e {go} ]; do sleep 0.01; done; touch {done}"

    cut_off(agent, "/command", b'{"command": "%s"}' % command.encode())
    go.touch()

    assert eventually(done.exists)


def test_a_client_that_goes_away_stops_a_run_of_a_session(agent: Agent) -> None:
    session = agent.post("/session").json()["session_id"]
    marker = f"600{os.getpid()}"

    cut_off(agent, f"/session/{session}/run", b'{"command": "exec sleep %s"}' % marker.encode())

    assert eventually(lambda: not texts(agent.run(f"pgrep -x -f 'sleep {marker}'")))


def test_variables_of_a_request_lie_over_those_of_a_file_and_of_the_agent(tmp_path) -> None:
    file = tmp_path / "variables"
    file.write_text("# remark\nTWO=file\nTHREE=$ONE-file\nnonsense\n")
    environment = {"ONE": "agent", "TWO": "agent", "THREE": "agent", "EXECD_ENVS": str(file)}
    with running_agent(environment=environment) as agent:
        found = agent.run("echo $ONE $TWO $THREE", envs={"TWO": "request"})

    assert texts(found) == ["agent request agent-file"]


def test_slow_commands_delay_no_other_request(agent: Agent) -> None:
    """A flood of commands must not take the threads that an interrupt or a health check needs."""
    slow = [threading.Thread(target=agent_request, args=(agent, "sleep 60")) for _ in range(60)]
    for thread in slow:
        thread.start()
    running = eventually(lambda: pids if len(pids := pids_of(agent, "sleep 60")) >= 60 else [])

    assert agent.get("/ping", timeout=5).status_code == 200

    for pid in running:
        os.kill(pid, 9)
    for thread in slow:
        thread.join(20)


def agent_request(agent: Agent, command: str) -> None:
    """Run a command over a connection of its own."""
    requests.post(agent.url + "/command", json={"command": f"exec {command}"}, timeout=60)


def pids_of(agent: Agent, command: str) -> list[int]:
    """Return the agent's children that run a command."""
    return [int(pid) for pid in texts(agent.run(f"pgrep -P $PPID -x -f '{command}'"))]


def test_memory_does_not_grow_with_output(agent: Agent) -> None:
    agent.run("seq 1000")
    before = agent.peak_kib

    with agent.post("/command", json={"command": "seq 2000000"}, stream=True) as response:
        size = sum(len(chunk) for chunk in response.iter_content(1 << 20))

    assert size > 100_000_000
    assert agent.peak_kib - before < 30_000


def test_memory_does_not_grow_when_the_client_is_slow(agent: Agent) -> None:
    before = agent.peak_kib

    with agent.post(
        "/command", json={"command": "yes | head -c 100000000 | tr -d '\\n' | fold -w 1000"}, stream=True
    ) as slow:
        eventually(lambda: not texts(agent.run("pgrep -P $PPID -f 'head -c 100000000'")))
        first = slow.raw.read(1000)

    assert b'"init"' in first
    assert agent.peak_kib - before < 40_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        pytest.param({"uid": 65534, "gid": 65534}, ["65534", "65534", "65534"], id="user and group"),
        pytest.param({"uid": 54321}, ["54321", "0", "0"], id="an unknown user gets root's group, as in ExecD"),
        pytest.param({"uid": 1}, ["1", "1", "1"], id="a known user gets his own"),
    ],
)
def test_a_command_runs_as_the_user_asked_for(agent: Agent, fields: dict[str, int], identity: list[str]) -> None:
    assert texts(agent.run("id -u; id -g; id -G", **fields)) == identity


@pytest.mark.parametrize(
    "fields",
    [pytest.param({"uid": 65534, "gid": 65534}, id="another user"), pytest.param({"uid": 0, "gid": 5}, id="a group")],
)
def test_a_user_that_does_not_exist_is_refused_with_advice(fields: dict[str, int]) -> None:
    """In a user namespace there is one user; the kernel's own answer would be a spawn error without a hint."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine refuses user namespaces")
    with running_agent(under=NAMESPACE) as agent:
        refused = agent.post("/command", json={"command": "id", **fields})
        own = texts(agent.run("id -u", uid=0))

    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST_BODY")
    assert "leave uid and gid out, use 0 and 0, or run on containers with --opensandbox-url docker" in refused.text
    assert own == ["0"]


def test_the_shell_is_found_whatever_path_a_command_asks_for(agent: Agent) -> None:
    assert texts(agent.run("echo $0 $PATH", envs={"PATH": "/no/such"})) == ["bash /no/such"]


@pytest.mark.parametrize(
    ("command", "has_shell"),
    [
        pytest.param("exec /usr/bin/env", False, id="a program by its path"),
        pytest.param("exec env", True, id="a program by its name"),
        pytest.param("exec /usr/bin/env $x", True, id="a variable"),
        pytest.param("exec /usr/bin/env;", True, id="an operator"),
        pytest.param("/usr/bin/env", True, id="no exec"),
    ],
)
def test_a_shell_is_left_out_where_it_would_only_execute(
    agent: Agent, tmp_path: Path, command: str, has_shell: bool
) -> None:
    (tmp_path / "rc").write_text("echo a shell has begun\n")

    said = texts(agent.run(command, envs={"BASH_ENV": str(tmp_path / "rc")}))

    assert ("a shell has begun" in said) is has_shell
