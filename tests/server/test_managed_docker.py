"""``--opensandbox-url docker``: one real server for the whole run, which leaves nothing on the engine."""

from pathlib import Path

import pytest

from pytest_opensandbox import Client, SandboxOpts
from pytest_opensandbox.servers.server_process import start_docker
from tests.embedded.machine import wait_until

# The path of the file with the server's key, as the inner run knows it.
SHARED = """
    import json, pathlib
    import pytest

    @pytest.fixture
    def file(pytestconfig):
        return pathlib.Path(pytestconfig.workerinput["opensandbox_server"]["file"])
"""


@pytest.fixture
def server(images):
    with start_docker(label="made-by=test", execd_image=images.execd) as running:
        yield running


@pytest.fixture
def opts(images):
    return SandboxOpts(image=images.sandbox)


@pytest.mark.parametrize("way", [("-p", "no:xdist"), ("-n0",), ("-n2",)], ids=" ".join)
def test_every_way_to_run_has_one_summary_and_leaves_nothing(pytester, on_docker, of_run, way):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(sandbox, n):
            assert sandbox.run("echo hi").stdout == "hi\\n"
    """)

    result = pytester.runpytest_subprocess(*on_docker, *way)

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["opensandbox: docker (flag), *isolation=containers*", "opensandbox: 3 created, 3 deleted, 0 swept, 0 left"]
    )
    assert of_run(pytester.path.name) == []


def test_workers_share_one_server_whose_key_is_shown_nowhere(pytester, on_docker):
    pytester.makeconftest(SHARED)
    pytester.makepyfile("""
        import json, pathlib, stat
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_it(file, pytestconfig, opensandbox_client, worker_id, n):
            key = json.loads(file.read_text())["api_key"]
            assert opensandbox_client.server_version()
            assert key not in repr(pytestconfig.workerinput)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                try:
                    assert key.encode() not in (process / "cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    pass
            with open("seen", "a") as seen:
                print(file, key, file=seen)
    """)

    result = pytester.runpytest_subprocess(*on_docker, "-n2", "--dist=each", "-rA", "--junitxml=report.xml")

    seen = {tuple(line.split()) for line in (pytester.path / "seen").read_text().splitlines()}
    assert len(seen) == 1
    file, key = seen.pop()
    assert not Path(file).parent.exists()
    assert key not in result.stdout.str() + result.stderr.str() + (pytester.path / "report.xml").read_text()


def test_a_killed_worker_is_swept_and_the_server_goes_on(pytester, on_docker, of_run):
    pytester.makepyfile("""
        import os
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(sandbox, n):
            if n == 1:
                os._exit(1)
            assert sandbox.run("true").ok
    """)

    result = pytester.runpytest_subprocess(*on_docker, "-n1")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["opensandbox: 3 created, 2 deleted, 1 swept, 0 left; gw0 crashed"])
    assert of_run(pytester.path.name) == []


def test_the_ports_of_a_sandbox_are_published_on_loopback_only(server, opts, client):
    with Client(server.url, server.api_key) as server_client:
        sandbox = server_client.create_sandbox(opts)

    ports = client.containers.get(f"sandbox-{sandbox.id}").attrs["HostConfig"]["PortBindings"]
    assert {binding["HostIp"] for bindings in ports.values() for binding in bindings} == {"127.0.0.1"}


def test_containers_of_other_servers_are_left_alone(client, images, opts):
    """A server deletes a sandbox whose label says that it is over; renewals by another server are not in the label."""
    labels = {
        "opensandbox.io/id": "3f3f3f3f-0000-4000-8000-000000000000",
        "opensandbox.io/expires-at": "2020-01-01T00:00:00Z",
    }
    other = client.containers.run(images.sandbox, ["tail", "-f", "/dev/null"], labels=labels, detach=True)
    try:
        with (
            start_docker(label="made-by=test", execd_image=images.execd) as server,
            Client(server.url, server.api_key) as server_client,
        ):
            server_client.wait_ready(server_client.create_sandbox(opts).id)

        other.reload()
        assert other.status == "running"
    finally:
        other.remove(force=True)


def test_untagged_sandboxes_and_snapshots_end_with_their_server(client, images, opts):
    with (
        start_docker(label="made-by=test", execd_image=images.execd) as server,
        Client(server.url, server.api_key) as server_client,
    ):
        sandbox = server_client.wait_ready(server_client.create_sandbox(opts).id)
        snapshot = server_client.create_snapshot(sandbox.id)
        assert wait_until(lambda: server_client.get_snapshot(snapshot.id).state == "Ready", seconds=60)

    assert client.api.containers(all=True, filters={"label": f"opensandbox.io/id={sandbox.id}"}) == []
    assert client.images.list(f"opensandbox-snapshots:{snapshot.id}") == []
