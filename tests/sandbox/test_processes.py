"""Processes that run while the test goes on, and the waits for what they do."""

import signal
import time

import pytest

from pytest_opensandbox import CommandStartError, ConfigError, ServiceTimeoutError

SERVER = "cd /srv && exec python3 -u -m http.server --bind 127.0.0.1 8127"
COUNT = "for i in $(seq 1000); do echo $i; sleep 0.05; done"


def left(sandbox, text):
    pattern = text[:-1] + f"[{text[-1]}]"
    return int(sandbox.run(f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '{pattern}'").stdout)


def test_a_process_runs_while_the_test_goes_on(shared_sandbox):
    with shared_sandbox.start(COUNT) as process:
        first = shared_sandbox.wait_for_log(process, r"^3$")

        assert (first[0], process.poll(), process.returncode) == ("3", None, None)
        assert process.stdout.read().startswith("1\n2\n3\n")
        assert not process.stdout.read().startswith("1\n")
        assert process.stdout.text.startswith("1\n2\n3\n")

    assert process.poll() == -15


@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param("exit 0", 0, id="success"),
        pytest.param("exit 7", 7, id="an exit code"),
        pytest.param("kill -9 $$", -9, id="a signal"),
        pytest.param(["no-such-program"], 127, id="no program"),
    ],
)
def test_wait_returns_the_exit_code(shared_sandbox, command, code):
    process = shared_sandbox.start(command)

    assert process.wait(timeout=20) == code
    assert process.poll() == process.returncode == code


def test_a_process_that_runs_on_is_an_error_that_shows_what_it_wrote(shared_sandbox):
    with (
        shared_sandbox.start("echo begun; sleep 60") as process,
        pytest.raises(ServiceTimeoutError, match=r"it still runs after 0\.5 s") as caught,
    ):
        process.wait(timeout=0.5)

    assert "begun" in str(caught.value)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(lambda process: process.terminate(), -15, id="terminate"),
        pytest.param(lambda process: process.kill(), -9, id="kill"),
        pytest.param(lambda process: process.send_signal(signal.SIGHUP), -1, id="a signal"),
        pytest.param(lambda process: process.close(), -15, id="close"),
    ],
)
def test_a_process_ends_by_a_signal_and_takes_its_group_along(shared_sandbox, end, code):
    process = shared_sandbox.start("sleep 34.5 & sleep 34.5")

    end(process)

    assert process.wait(timeout=10) == code
    assert left(shared_sandbox, "sleep 34.5") == 0
    process.terminate()
    process.close()


def test_close_ends_descendants_in_other_sessions_too(shared_sandbox):
    with shared_sandbox.start("setsid sleep 35.5 & setsid sh -c 'trap \"\" TERM; sleep 35.5; :' & wait") as process:
        shared_sandbox.run("sleep 0.3")

    assert process.poll() is not None
    assert left(shared_sandbox, "sleep 35.5") == 0


def test_a_process_has_ended_when_its_leader_has(shared_sandbox):
    with shared_sandbox.start("sleep 36 & echo up") as process:
        assert process.wait(timeout=10) == 0

        assert left(shared_sandbox, "sleep 36") == 1
    assert left(shared_sandbox, "sleep 36") == 0


def test_the_arguments_are_those_of_run(shared_sandbox):
    process = shared_sandbox.start(
        ["sh", "-c", 'cat; echo "$A"; pwd; echo err >&2'], input="in\n", env={"A": "1"}, cwd="/tmp"
    )
    process.wait(timeout=20)
    shared_sandbox.wait_for_log(process, "err")

    assert (process.stdout.read_bytes(), process.stderr.read()) == (b"in\n1\n/tmp\n", "err\n")
    assert repr(process).startswith("<Process ['sh', '-c'")


def test_a_process_that_cannot_be_started_is_an_error(shared_sandbox):
    with pytest.raises(CommandStartError, match="directory /no/such cannot be entered"):
        shared_sandbox.start("true", cwd="/no/such")


def test_a_server_is_waited_for_by_its_port_and_by_http(sandbox):
    with sandbox.start(SERVER) as server:
        sandbox.wait_for_port(8127, process=server)
        sandbox.wait_for_http(8127, "/", process=server)
        sandbox.wait_for_http(8127, "/nothing", status=404)
        sandbox.wait_for_log(server, r"GET /nothing .* 404")


def test_a_port_of_another_address_is_a_port_too(shared_sandbox):
    with shared_sandbox.start("exec python3 -m http.server --bind 127.0.0.9 8128") as server:
        shared_sandbox.wait_for_port(8128, process=server)


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(lambda sandbox, process: sandbox.wait_for_port(8129, process=process), id="port"),
        pytest.param(lambda sandbox, process: sandbox.wait_for_log(process, "never"), id="log"),
        pytest.param(lambda sandbox, process: sandbox.wait_for_http(8129, process=process), id="http"),
    ],
)
def test_a_wait_fails_at_once_when_the_process_has_ended(shared_sandbox, wait):
    process = shared_sandbox.start("echo 'cannot begin' >&2; sleep 0.3; exit 3")
    started = time.monotonic()

    with pytest.raises(ServiceTimeoutError, match="it has ended with 3") as caught:
        wait(shared_sandbox, process)

    assert "cannot begin" in str(caught.value)
    assert time.monotonic() - started < 15


def test_a_port_on_which_no_server_listens_is_an_error_in_time(shared_sandbox):
    with pytest.raises(ServiceTimeoutError, match="port 8130: not within 1 s"):
        shared_sandbox.wait_for_port(8130, timeout=0.6)


def test_a_status_that_does_not_come_is_told_with_the_last_one(shared_sandbox):
    with shared_sandbox.start("cd /srv && exec python3 -u -m http.server --bind 127.0.0.1 8131") as server:
        shared_sandbox.wait_for_port(8131)

        with pytest.raises(ServiceTimeoutError, match="the last status was 404"):
            shared_sandbox.wait_for_http(8131, "/nothing", timeout=0.5, process=server)


@pytest.mark.parametrize("port", [0, 65_536, "80", True])
def test_a_port_that_is_none_is_refused_by_its_name(shared_sandbox, port):
    with pytest.raises(ConfigError, match="port"):
        shared_sandbox.wait_for_port(port)


def test_processes_end_with_their_sandbox(sandbox_factory):
    with sandbox_factory() as sandbox:
        process = sandbox.start("sleep 600")

    assert process.wait_until(lambda: process.is_over, 30)
