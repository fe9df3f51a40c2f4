"""The client's operations against a real server: the embedded one, over its own socket."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.client.sandbox_opts import SandboxOpts, label_value
from pytest_opensandbox.errors import (
    ApiError,
    AuthError,
    CommandTimeoutError,
    ConfigError,
    NotFoundError,
)
from pytest_opensandbox.servers.server_process import start_embedded
from pytest_opensandbox.transport.timeouts import Timeouts

LABELS = {"run": label_value("tests/test_client_embedded.py::shared")}


@pytest.fixture(scope="module")
def server():
    with start_embedded() as server:
        yield server


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "server proxy"])
def client(server, request):
    with Client(server.url, server.api_key, use_server_proxy=request.param) as client:
        yield client


@pytest.fixture(scope="module")
def running(client):
    created = client.create_sandbox(SandboxOpts(image="host", metadata=LABELS, timeout=600, env={"COLOUR": "green"}))
    yield created
    client.delete_sandbox(created.id)


@pytest.fixture(scope="module")
def agent(client, running):
    return client.wait_ready_endpoint(running.id, known=running)[1]


def test_create_get_list_and_delete(client):
    tag = {"test": label_value(f"create {time.time_ns()}")}
    created = client.create_sandbox(SandboxOpts(image="host", metadata=tag))

    assert client.get_sandbox(created.id).id == created.id
    assert [found.id for found in client.list_sandboxes(tag)] == [created.id]
    assert client.list_sandboxes({**tag, "other": "label"}) == []
    assert client.delete_sandbox(created.id) is True
    assert client.delete_sandbox(created.id) is False
    for call in (client.get_sandbox, client.diagnostics, client.pause, client.resume, client.discover_execd):
        with pytest.raises(NotFoundError):
            call(created.id)


def test_a_sandbox_becomes_ready(client, running):
    ready = client.wait_ready(running.id)

    assert ready.is_running
    assert LABELS.items() <= ready.metadata.items()


def test_the_agents_endpoint_is_found_and_answers(client, running):
    endpoint = client.discover_execd(running.id)

    client.ping(endpoint)
    assert endpoint == client.get_endpoint(running.id, 44772)


def test_a_command_has_output_exit_code_environment_and_directory(client, agent):
    result = client.run_command(
        agent, 'echo "$COLOUR $SIZE"; pwd; echo err >&2; exit 3', cwd="/tmp", env={"SIZE": "xl"}
    )

    assert (result.stdout, result.stderr, result.exit_code) == ("green xl\n/tmp", "err", 3)


def test_an_argument_list_never_meets_the_shell(client, agent):
    words = ["$HOME", "a  b", "'", '"', "\\", "*", "é\n", "", "-n", "A=1"]

    assert client.run_command(agent, ["printf", r"%s\n", *words]).stdout == "\n".join(words)


def test_a_command_that_does_not_exist_is_127_and_a_signal_has_its_name(client, agent):
    assert client.run_command(agent, ["no-such-program"]).exit_code == 127
    killed = client.run_command(agent, "kill -9 $$")

    assert (killed.exit_code, killed.signal, killed.timed_out) == (-9, "SIGKILL", False)


def test_a_time_limit_ends_a_command_with_its_children(client, agent):
    result = client.run_command(agent, "echo begun; sleep 1234 & sleep 1234", timeout=0.5)

    assert (result.timed_out, result.stdout) == (True, "begun")
    assert client.run_command(agent, "ps -e -o args= | grep -c '^sleep 123[4]'").stdout == "0"


def test_lines_arrive_in_time_and_a_callback_that_raises_ends_the_command(client, agent):
    class EnoughError(Exception):
        pass

    def on_stdout(line: str) -> None:
        raise EnoughError(line)

    with pytest.raises(EnoughError, match="first"):
        client.run_command(agent, "echo first; sleep 4321", on_stdout=on_stdout)

    assert client.run_command(agent, "ps -e -o args= | grep -c '^sleep 432[1]'").stdout == "0"


def test_many_lines_and_a_long_one_come_whole(client, agent):
    assert client.run_command(agent, "seq 20000").stdout.split("\n")[-1] == "20000"
    assert len(client.run_command(agent, "head -c 3000000 /dev/zero | tr '\\0' x").stdout_bytes) == 3_000_000


def test_a_background_command_can_be_ended(client, agent):
    started = client.run_command(agent, "sleep 60", background=True)

    assert client.interrupt(agent, started.command_id) is True
    assert client.interrupt(agent, started.command_id) is False


def test_a_directory_that_does_not_exist_is_the_agents_error(client, agent):
    with pytest.raises(ApiError, match="working directory /no/such/directory: no such file"):
        client.run_command(agent, "true", cwd="/no/such/directory")


def test_files_go_in_and_come_out_with_their_modes(client, agent, tmp_path: Path):
    local = tmp_path / "local"
    local.write_bytes(bytes(range(256)) * 10_000)
    client.upload_files(
        agent, [FileUpload("/tmp/up/deep/ä b.bin", local, 0o640), FileUpload("/tmp/up/run.sh", b"#!/bin/sh\n", 0o755)]
    )

    modes = {
        path: info.mode for path, info in client.files_info(agent, ["/tmp/up/deep/ä b.bin", "/tmp/up/run.sh"]).items()
    }
    assert modes == {"/tmp/up/deep/ä b.bin": 0o640, "/tmp/up/run.sh": 0o755}
    with client.download_file(agent, "/tmp/up/deep/ä b.bin") as download:
        assert (download.size, download.read()) == (2_560_000, local.read_bytes())
    assert client.download_file(agent, "/tmp/up/deep/ä b.bin", byte_range=(255, 258)).read() == b"\xff\x00\x01"


def test_a_search_compares_names(client, agent):
    client.upload_files(agent, [FileUpload(f"/tmp/tree/{name}", b"x") for name in ("a.py", "sub/b.py", "sub/c.txt")])

    found = client.search_files(agent, "/tmp/tree", "*.py")

    assert sorted(info.path for info in found) == ["/tmp/tree/a.py", "/tmp/tree/sub/b.py"]


def test_a_directory_is_no_file_and_a_missing_file_is_not_found(client, agent):
    client.make_directories(agent, ["/tmp/made/here"])

    with pytest.raises(ConfigError, match="it is a directory"):
        client.download_file(agent, "/tmp/made")
    with pytest.raises(NotFoundError):
        client.download_file(agent, "/tmp/made/none")
    client.remove_directories(agent, ["/tmp/made"])
    with pytest.raises(NotFoundError):
        client.files_info(agent, ["/tmp/made"])


def test_a_renewal_moves_the_end(client, running):
    until = client.renew(running.id, 3600)

    assert client.get_sandbox(running.id).expires_at == until


def test_labels_are_changed_and_removed(client, running):
    client.patch_metadata(running.id, {"extra": "1"})
    assert client.get_sandbox(running.id).metadata["extra"] == "1"

    client.patch_metadata(running.id, {"extra": None})
    assert "extra" not in client.get_sandbox(running.id).metadata


def test_a_paused_sandbox_resumes(client):
    created = client.create_sandbox(SandboxOpts(image="host"))
    endpoint = client.wait_ready_endpoint(created.id, known=created)[1]

    client.pause(created.id)
    assert client.get_sandbox(created.id).state == "Paused"
    client.resume(created.id)

    assert client.run_command(endpoint, "echo back").stdout == "back"
    client.delete_sandbox(created.id)


def test_diagnostics_and_version_are_text(client, running):
    assert isinstance(client.diagnostics(running.id), str)
    assert client.server_version()


def test_a_wrong_key_is_an_auth_error_that_does_not_show_it(server):
    with Client(server.url, "wr0ng-key") as client, pytest.raises(AuthError) as caught:
        client.list_sandboxes()

    assert "wr0ng-key" not in str(caught.value)


def test_threads_share_a_client(client, agent):
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda number: client.run_command(agent, f"echo {number}").stdout, range(24)))

    assert results == [str(number) for number in range(24)]


# The agent keeps its own time limit, so the client's deadline needs an agent that does not: one that is frozen.
def test_a_frozen_agent_does_not_hold_the_caller(client, server):
    short = Timeouts(grace_seconds=0.5, agent_connect_seconds=1.0, interrupt_seconds=1.0)
    created = client.create_sandbox(SandboxOpts(image="host"))
    endpoint = client.wait_ready_endpoint(created.id, known=created)[1]

    def freeze(line: str) -> None:
        client.pause(created.id)

    with Client(server.url, server.api_key, timeouts=short) as impatient, pytest.raises(CommandTimeoutError) as caught:
        impatient.run_command(endpoint, "echo begun; sleep 60", timeout=0.5, on_stdout=freeze)

    assert caught.value.stdout == "begun"
    client.delete_sandbox(created.id)
