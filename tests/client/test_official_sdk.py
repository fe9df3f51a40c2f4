"""The official SDK, a client of other authors, has the same session with every server."""

from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from opensandbox.config import ConnectionConfigSync
from opensandbox.models.filesystem import SearchEntry, WriteEntry
from opensandbox.models.sandboxes import SandboxFilter, SnapshotFilter
from opensandbox.sync.manager import SandboxManagerSync
from opensandbox.sync.sandbox import SandboxSync

from tests.embedded.machine import wait_until


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "through the server's proxy"])
def connection(running_server, request):
    return ConnectionConfigSync(
        api_key=running_server.api_key,
        domain=urlsplit(running_server.url).netloc,
        protocol="http",
        use_server_proxy=request.param,
        request_timeout=timedelta(seconds=30),
    )


@pytest.fixture(scope="module")
def sdk(connection, opensandbox_settings):
    sandbox = SandboxSync.create(
        opensandbox_settings.image,
        connection_config=connection,
        timeout=timedelta(minutes=5),
        metadata={"made-by": "sdk"},
        env={"A": "1"},
    )
    try:
        yield sandbox
    finally:
        sandbox.kill()
        sandbox.close()


def test_the_sdk_runs_a_command(sdk):
    execution = sdk.commands.run("echo out-$A; echo err >&2; exit 3")

    assert [message.text for message in execution.logs.stdout] == ["out-1"]
    assert [message.text for message in execution.logs.stderr] == ["err"]
    assert execution.exit_code == 3


def test_the_sdk_writes_and_reads_files(sdk):
    sdk.files.write_files([WriteEntry(path="/workspace/sdk/a.txt", data="alpha\n", mode=640)])

    assert sdk.files.read_file("/workspace/sdk/a.txt") == "alpha\n"
    assert sdk.files.get_file_info(["/workspace/sdk/a.txt"])["/workspace/sdk/a.txt"].mode == 640


def test_the_sdk_searches_files(sdk):
    sdk.files.write_files([WriteEntry(path="/workspace/found/b.sh", data="x", mode=755)])

    found = sdk.files.search(SearchEntry(path="/workspace/found", pattern="*.sh"))

    assert [entry.path for entry in found] == ["/workspace/found/b.sh"]


def test_the_sdk_renews(sdk):
    before = sdk.get_info().expires_at

    sdk.renew(timedelta(minutes=30))

    assert sdk.get_info().expires_at > before


def test_the_sdk_finds_its_sandbox_by_metadata(sdk, connection):
    with SandboxManagerSync.create(connection) as manager:
        listed = manager.list_sandbox_infos(SandboxFilter(metadata={"made-by": "sdk"}))

    assert sdk.id in [info.id for info in listed.sandbox_infos]


def test_the_sdk_restores_a_snapshot(sdk, connection):
    sdk.commands.run("echo kept > /root/kept-by-the-sdk")
    with SandboxManagerSync.create(connection) as manager:
        snapshot = manager.create_snapshot(sdk.id, name="of-the-sdk").id
        assert wait_until(lambda: manager.get_snapshot(snapshot).status.state == "Ready")
        listed = manager.list_snapshots(SnapshotFilter(sandbox_id=sdk.id, name="of-the-sdk")).snapshot_infos
        sandbox = SandboxSync.create(snapshot_id=snapshot, connection_config=connection, timeout=timedelta(minutes=5))
        restored = sandbox.files.read_file("/root/kept-by-the-sdk")
        sandbox.kill()
        sandbox.close()
        manager.delete_snapshot(snapshot)

    assert snapshot in [info.id for info in listed]
    assert restored == "kept\n"


def test_the_sdk_kills(connection, opensandbox_settings):
    sandbox = SandboxSync.create(opensandbox_settings.image, connection_config=connection, timeout=timedelta(minutes=5))

    sandbox.kill()

    with SandboxManagerSync.create(connection) as manager:
        assert sandbox.id not in [info.id for info in manager.list_sandbox_infos(SandboxFilter()).sandbox_infos]
    sandbox.close()
