"""A killed pytest, server or supervisor leaves no container, although none of its own code runs any more."""

import os
import signal
import sys
from pathlib import Path

import pytest

from pytest_opensandbox import Client, SandboxOpts
from pytest_opensandbox.servers.server_process import start_docker
from tests.embedded.machine import is_alive, wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("way", [(), ("-n1",)], ids=["one process", "a worker"])
def test_a_killed_pytest_leaves_no_server_and_no_container(pytester, on_docker, of_run, way, number):
    """A killed session runs no code of ours, and the containers would outlive the server that knows their lease."""
    pytester.makepyfile("""
        import pathlib, time

        def test_it(sandbox):
            pathlib.Path("ready").touch()
            time.sleep(300)
    """)
    command = [sys.executable, "-m", "pytest", *on_docker, *way]
    with open("output", "wb") as output:
        process = pytester.popen(command, stdout=output, stderr=output)
    ready = pytester.path / "ready"
    wait_until(lambda: ready.exists() or process.poll() is not None, seconds=120)
    assert ready.exists(), Path("output").read_text()
    servers = servers_of(process.pid)
    assert of_run(pytester.path.name) != []

    process.send_signal(number)
    process.wait()

    assert len(servers) == 2
    assert wait_until(lambda: not any(is_alive(pid) for pid in servers), seconds=60)
    assert of_run(pytester.path.name) == []


def test_a_server_that_dies_leaves_no_container(client, images):
    with start_docker(label="made-by=test", execd_image=images.execd) as server:
        with Client(server.url, server.api_key) as client_of_server:
            sandbox = client_of_server.create_sandbox(SandboxOpts(image=images.sandbox))
        os.kill(servers_of(os.getpid(), supervisor=server.pid)[-1], signal.SIGKILL)

        assert wait_until(lambda: not server.is_running, seconds=60)

    assert client.api.containers(all=True, filters={"label": f"opensandbox.io/id={sandbox.id}"}) == []


@pytest.mark.parametrize("way", [(), ("-n1",)], ids=["one process", "a worker"])
def test_what_a_killed_supervisor_leaves_is_deleted_by_the_run(pytester, on_docker, of_run, way):
    """Leases end with the server that knows them, so that nothing else would ever end these containers."""
    pytester.makepyfile("""
        import contextlib, os, pathlib, signal

        def parent(pid):
            return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

        def test_it(sandbox, pytestconfig):
            owner = os.getppid() if hasattr(pytestconfig, "workerinput") else os.getpid()
            for entry in pathlib.Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # ended in the meantime
                    words = (entry / "cmdline").read_bytes().split(b"\\0")
                    if b"pytest_opensandbox.servers.docker_supervisor" in words and parent(entry.name) == owner:
                        os.kill(int(entry.name), signal.SIGKILL)
    """)

    result = pytester.runpytest_subprocess(*on_docker, *way)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, * 0 left", "the server on the Docker engine was killed by *"])
    result.stdout.no_fnmatch_line("*LeakWarning*")
    assert of_run(pytester.path.name) == []


def servers_of(pid, *, supervisor=None):
    """Return the process ids of a pytest's supervisor and its server, the supervisor first."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents[int(entry.name)] = (parent, words)
    program = b"pytest_opensandbox.servers.docker_supervisor"
    found = [child for child, (up, words) in parents.items() if up == pid and program in words]
    supervisors = [supervisor] if supervisor else found
    return supervisors + [child for child, (up, _) in parents.items() if up in supervisors]
