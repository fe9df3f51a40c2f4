"""The runner gets into a sandbox, and where it cannot run, the agent's lines have to do."""

import pytest

from pytest_opensandbox import Client, CommandLostError, Endpoint
from pytest_opensandbox.errors import SharedAgentError
from pytest_opensandbox.sandbox.runner import Runner
from pytest_opensandbox.sandbox.runner_protocol import Invocation
from tests.runner_reports import read_request
from tests.scripted_servers import OneSandboxServer, Reply, as_events, as_json, as_lines, reported, serving

NOT_EXECUTED = as_events(
    {"type": "init", "text": "c1"},
    {"type": "error", "error": {"ename": "CommandExecError", "evalue": "126", "traceback": ["exit status 126"]}},
)
NOT_WRITTEN = as_json({"code": "RUNTIME_ERROR", "message": "read-only file system"}, 500)


@pytest.fixture
def run_on():
    """Run a command by a runner on a server."""

    def run(server, command="echo hi", **how):
        with serving(server=server), Client(server.url) as client:
            runner = Runner(client, Endpoint(f"{server.url}/agent", sandbox_id="s1"))
            return runner.run(Invocation(command=command, **{"max_bytes": 1000, **how}))

    return run


def test_a_runner_is_delivered_once(run_on):
    server = OneSandboxServer(command=[reported(stdout=b"1\n"), reported(stdout=b"2\n")])
    with serving(server=server), Client(server.url) as client:
        runner = Runner(client, Endpoint(f"{server.url}/agent", sandbox_id="s1"))

        outputs = [runner.run(Invocation(command="x", max_bytes=1000)).stdout for _ in range(2)]

    assert (outputs, server.calls) == (["1\n", "2\n"], ["upload", "command", "command"])


def test_a_runner_that_was_removed_is_delivered_again():
    server = OneSandboxServer(command=[reported(), NOT_EXECUTED, reported(stdout=b"again\n")])
    with serving(server=server), Client(server.url) as client:
        runner = Runner(client, Endpoint(f"{server.url}/agent", sandbox_id="s1"))
        runner.run(Invocation(command="rm -rf /var/tmp", max_bytes=1000))

        assert runner.run(Invocation(command="echo again", max_bytes=1000)).stdout == "again\n"


def test_another_directory_is_taken_where_the_first_cannot_be_written(run_on):
    server = OneSandboxServer(upload=[NOT_WRITTEN], command=[reported(stdout=b"hi\n")])

    assert run_on(server).exact
    assert server.seen[-1].json["command"].startswith("exec /tmp/.opensandbox-runner-")


def test_without_a_place_for_it_the_output_is_made_of_lines(run_on):
    server = OneSandboxServer(upload=[NOT_WRITTEN] * 100, command=[as_lines("hi")])

    result = run_on(server)

    assert (result.stdout, result.exact) == ("hi", False)
    assert result.inexact_because == "the runner cannot be written to /dev/shm (read-only file system)"
    assert "echo hi" in server.seen[-1].json["command"]


def test_where_nothing_can_be_executed_the_output_is_made_of_lines(run_on):
    server = OneSandboxServer(command=[NOT_EXECUTED] * 10 + [as_lines("hi")])

    result = run_on(server)

    assert (result.stdout, result.exact) == ("hi", False)
    assert result.inexact_because.startswith("no program can be executed from /var/tmp, /tmp,")


def test_a_program_is_tried_for_each_machine(run_on):
    server = OneSandboxServer(command=[NOT_EXECUTED, reported(stdout=b"hi\n")])

    run_on(server)

    first, second = (seen.body for seen in server.seen if seen.path.endswith("upload"))
    machines = [int.from_bytes(body[body.index(b"\x7fELF") + 18 :][:2], "little") for body in (first, second)]
    assert sorted(machines) == [0x3E, 0xB7]


def test_lines_of_another_sandbox_are_refused_without_a_runner(run_on):
    ended = {"type": "error", "error": {"ename": "CommandExecError", "evalue": "96", "traceback": ["exit status 96"]}}
    refused = as_events({"type": "init", "text": "c1"}, {"type": "stdout", "text": "!another-sandbox:s2"}, ended)

    with pytest.raises(SharedAgentError, match="reach the agent of sandbox s2"):
        run_on(OneSandboxServer(upload=[NOT_WRITTEN] * 100, command=[refused]))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        pytest.param(97, "the sandbox's disk is full", id="the report fitted nowhere"),
        pytest.param(95, "no memory left for its output", id="no memory"),
        pytest.param(1, "ended with 1 and did not report", id="for no known reason"),
    ],
)
def test_a_runner_that_reports_nothing_is_an_error_with_the_reason(run_on, code, why):
    ended = {"type": "error", "error": {"ename": "CommandExecError", "evalue": str(code), "traceback": []}}
    server = OneSandboxServer(command=[as_events({"type": "init", "text": "c1"}, ended)])

    with pytest.raises(CommandLostError, match=why):
        run_on(server)


def test_output_that_did_not_arrive_is_an_error(run_on):
    def cut(seen):
        return as_lines(f"{read_request(seen.json)['n']} end 0 0 5 0 1000")

    with pytest.raises(CommandLostError, match="a part of what it wrote did not arrive"):
        run_on(OneSandboxServer(command=[cut]))


def test_a_whole_report_counts_although_the_agent_lost_the_end(run_on):
    def unfinished(seen):
        reply = reported(stdout=b"hi\n")(seen)
        return Reply(200, reply.pieces[:-1], reply.headers, framing="chunked")

    assert run_on(OneSandboxServer(command=[unfinished])).stdout == "hi\n"


def test_a_long_request_travels_in_a_file(run_on):
    def answer(seen):
        nonces.append(seen.json["envs"]["OPENSANDBOX_RUNNER_REQUEST"].rpartition("-")[2])
        return as_lines(f"{nonces[0]} end 0 0 0 0 1")

    nonces = []
    server = OneSandboxServer(command=[answer])

    run_on(server, command=": " + "x" * 100_000)

    request = [seen for seen in server.seen if seen.path.endswith("upload")][-1]
    assert f'"path": "/var/tmp/.opensandbox-request-{nonces[0]}"'.encode() in request.body
    assert b"x" * 100_000 in request.body
