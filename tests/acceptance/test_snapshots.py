"""Snapshots of a run: restored by hand, deleted at the end however the run ends, and never those of other runs."""

import pytest

from pytest_opensandbox.sandbox.snapshot import run_prefix
from tests.acceptance.setups import SUITE


def test_a_snapshot_by_hand_is_restored_and_deleted_after_the_run(pytester, server, has_snapshots):
    pytester.makepyfile(f"""
        import pytest
        from pytest_opensandbox import ApiError

        @pytest.fixture(scope="module")
        def taken(sandbox_factory):
            with sandbox_factory(setup="") as sandbox:
                sandbox.run("mkdir -p /workspace && echo first >/workspace/mark", check=True)
                return sandbox.snapshot("my name")

        @pytest.mark.sandbox(setup="")
        def test_refused(sandbox):
            if not {has_snapshots}:
                with pytest.raises(ApiError, match="501 SNAPSHOT::NOT_IMPLEMENTED"):
                    sandbox.snapshot()

        @pytest.mark.skipif(not {has_snapshots}, reason="no snapshots")
        def test_restored(taken, sandbox_factory, opensandbox_client):
            _, run, _, name = taken.name.split(".")
            assert name.startswith("my-name")
            for snapshot in (taken, taken.id):
                sandbox = sandbox_factory(snapshot=snapshot, setup="echo more >>/workspace/mark")
                assert sandbox.get("/workspace/mark") == b"first\\nmore\\n"
                assert sandbox.metadata["pytest-opensandbox.run"] == run
            assert sandbox_factory(snapshot=taken).get("/workspace/mark") == b"first\\n"
    """)

    result = pytester.runpytest_subprocess("--opensandbox-setup=exit 1")

    result.assert_outcomes(passed=2 if has_snapshots else 1, skipped=0 if has_snapshots else 1)
    assert server.leftovers() == []


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("run_command", id="in the setup"),
        pytest.param("create_snapshot", id="before the snapshot's id is known"),
        pytest.param("wait_snapshot_ready", id="while the snapshot is made"),
    ],
)
def test_ctrl_c_while_a_sandbox_is_prepared_leaves_nothing(pytester, server, has_snapshots, moment):
    if moment == "wait_snapshot_ready" and not has_snapshots:
        pytest.skip("no snapshots")
    pytester.makeconftest(f"""
        import os, signal
        from pytest_opensandbox import Client

        original = Client.{moment}

        def interrupted(self, *args, **kwargs):
            try:
                return original(self, *args, **kwargs) if "{moment}" != "wait_snapshot_ready" else None
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        Client.{moment} = interrupted
    """)
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert server.leftovers() == []


def test_a_worker_that_dies_in_a_setup_blocks_no_other_worker(pytester, server, has_snapshots):
    # The kernel releases the lock of a dead process; the sweep of the run deletes its unfinished snapshot.
    pytester.makeconftest("""
        import os
        from pathlib import Path
        from pytest_opensandbox import Client

        original = Client.create_snapshot

        def create_and_die(self, *args):
            try:
                return original(self, *args)
            finally:
                try:
                    Path("died").touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os._exit(1)

        Client.create_snapshot = create_and_die
    """)
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("-n2", timeout=120)

    result.assert_outcomes(passed=3, failed=1)
    seen = (pytester.path / "seen").read_text().splitlines()
    assert (len(seen), len(set(seen))) == (3, 1 if has_snapshots else 3)
    result.stdout.fnmatch_lines(["opensandbox: * 1 swept, 0 left; gw? crashed"])
    assert server.leftovers() == []


def test_the_snapshots_of_other_runs_are_left_alone(pytester, server, has_snapshots):
    if not has_snapshots:
        pytest.skip("no snapshots")
    name = f"{run_prefix('another')}mine"
    pytester.makepyfile(f"""
        def test_it(sandbox, opensandbox_client):
            snapshot = opensandbox_client.create_snapshot(sandbox.id, {name!r})
            opensandbox_client.wait_snapshot_ready(snapshot.id)
            sandbox.snapshot()
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    assert server.snapshots() == [name]
    with server.client() as client:
        for snapshot in client.list_snapshots(name=name):
            client.delete_snapshot(snapshot.id)


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["one process", "a worker"])
def test_a_snapshot_that_cannot_be_deleted_is_named_without_failing(pytester, server, has_snapshots, arguments):
    if not has_snapshots:
        pytest.skip("no snapshots")
    pytester.makeconftest("""
        from pytest_opensandbox import Client
        from pytest_opensandbox.errors import AuthError

        def fail(self, snapshot_id):
            raise AuthError(403, message="not yours")

        Client.delete_snapshot = fail
    """)
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*arguments)

    with server.client() as client:
        (left,) = client.list_snapshots()
        client.delete_snapshot(left.id)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.OK
    named = f"snapshots stay on the server until they are deleted by hand: {left.id} ({left.name})"
    result.stdout.fnmatch_lines([named, "the sweep stopped early: *not yours*"])
    assert result.stdout.str().count(f"LeakWarning: {named}") == 1
