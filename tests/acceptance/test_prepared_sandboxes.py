"""A setup runs once and every test gets a sandbox restored from it; where there are no snapshots, it runs in each."""

import pytest

from pytest_opensandbox import ApiError
from pytest_opensandbox.sandbox.snapshot import run_prefix
from tests.acceptance.test_parallel_workers import WAYS

SETUP = "mkdir -p /workspace && date +%s%N >/workspace/made"
"""Leaves something that is another thing each time."""

SUITE = f"""
    import pytest

    pytestmark = pytest.mark.sandbox(setup={SETUP!r})

    @pytest.mark.parametrize("n", range(4))
    def test_it(sandbox, n):
        with open("seen", "a") as file:
            file.write(sandbox.get("/workspace/made").decode())
        assert sandbox.run("echo $OPENSANDBOX_ID").stdout.strip() == sandbox.id
        sandbox.run("test ! -e /workspace/mine && touch /workspace/mine", check=True)
"""


@pytest.fixture
def keeps(server):
    """Whether the server has snapshots."""
    return snapshots(server) is not None


def snapshots(server):
    """Return the names of the snapshots on a server, None where it has no such thing."""
    with server.client() as client:
        try:
            return [snapshot.name for snapshot in client.list_snapshots()]
        except ApiError:
            return None


def assert_nothing_is_left(server):
    assert server.sandboxes() == []
    assert not snapshots(server)


def summary(*, made, keeps, restored, builds=1):
    """Return the two lines of the summary, as patterns."""
    created = restored + builds if keeps else restored
    line = f"opensandbox: {created} created, {created} deleted, 0 swept, 0 left"
    boxes = "1 sandbox" if restored == 1 else f"{restored} sandboxes"
    if keeps:
        return [line, f"setup: {made} prepared and kept in * s, {boxes} restored"]
    return [
        line,
        f"setup: run anew in {boxes}, * s in all, for want of snapshots: * (501 SNAPSHOT::NOT_IMPLEMENTED)",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_runs_a_setup_once_and_gives_each_test_a_fresh_sandbox(pytester, server, keeps, way):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*way)

    result.assert_outcomes(passed=4)
    seen = (pytester.path / "seen").read_text().splitlines()
    assert (len(seen), len(set(seen))) == (4, 1 if keeps else 4)
    result.stdout.fnmatch_lines(summary(made=1, keeps=keeps, restored=4))
    assert_nothing_is_left(server)


def test_without_snapshots_the_setup_runs_in_each_sandbox_and_the_summary_says_why(pytester, server):
    pytester.makeconftest("""
        from pytest_opensandbox import ApiError, Client

        def refuse(self, *args):
            raise ApiError(501, code="SNAPSHOT::NOT_IMPLEMENTED", message="no snapshots here")

        Client.create_snapshot = Client.list_snapshots = refuse
    """)
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("-n2")

    result.assert_outcomes(passed=4)
    assert len(set((pytester.path / "seen").read_text().splitlines())) == 4
    result.stdout.fnmatch_lines(summary(made=0, keeps=False, restored=4))
    assert_nothing_is_left(server)


def test_workers_that_have_a_server_each_run_a_setup_each(pytester):
    # A snapshot of one server is none of another's.
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("-n2")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["opensandbox: * 0 swept, 0 left", "setup: *"])


def test_another_setup_file_or_variable_is_another_snapshot(pytester, server, keeps):
    (pytester.path / "words").write_text("one")
    pytester.makepyfile(f"""
        from pathlib import Path

        def made(factory, **recipe):
            with factory(**{{"setup": {SETUP!r}, "put": {{"words": "/workspace/in/words"}}, **recipe}}) as sandbox:
                assert sandbox.get("/workspace/in/words").decode() == Path("words").read_text()
                mode = sandbox.run("stat -c %a /workspace/in/words").stdout.strip()
                assert int(mode, 8) == Path("words").stat().st_mode & 0o777
                return sandbox.get("/workspace/made")

        def test_it(sandbox_factory):
            first = made(sandbox_factory)
            same = made(sandbox_factory)
            others = [made(sandbox_factory, env={{"A": "1"}}), made(sandbox_factory, setup=[{SETUP!r}, "true"])]
            Path("words").chmod(0o600)
            others.append(made(sandbox_factory))
            Path("words").write_text("two")
            others.append(made(sandbox_factory))
            assert len({{first, *others}}) == 5
            assert (first == same) is {keeps}
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(summary(made=5, keeps=keeps, restored=6, builds=5))
    assert_nothing_is_left(server)


@pytest.mark.parametrize("way", WAYS)
def test_a_setup_that_fails_is_told_once_and_not_run_again(pytester, server, way):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        @pytest.mark.sandbox(setup=["echo fine", "echo so far; echo no such package >&2; exit 3"])
        def test_it(sandbox, n): pass
    """)

    result = pytester.runpytest_subprocess(*way)

    result.assert_outcomes(errors=3)
    text = result.stdout.str()
    told = "'echo so far; echo no such package >&2; exit 3' exited with 3 as setup of the sandboxes"
    assert text.count(f"opensandbox: {told} from {server.image}, and is not run again in this run: try the") == 1
    assert text.count(f"opensandbox: {told} from {server.image} before: see the first error about it") == 2
    assert text.count("--- stderr ---\nno such package") == text.count("--- stdout ---\nso far") == 1
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])
    assert_nothing_is_left(server)


def test_a_setup_that_fails_is_an_error_with_its_facts(pytester, server):
    pytester.makepyfile("""
        import pytest
        from pytest_opensandbox import CommandError, SetupError

        def test_it(sandbox_factory):
            for repeated in (False, True):
                with pytest.raises(CommandError) as caught:
                    sandbox_factory(setup="echo out; echo err >&2; exit 3")
                error = caught.value
                assert isinstance(error, SetupError)
                assert (error.exit_code, error.stdout, error.stderr) == (3, "out\\n", "err\\n")
                assert error.repeated is repeated
            with pytest.raises(SetupError, match="was ended after 0.5 s, its time limit"):
                sandbox_factory(setup="sleep 60")
    """)

    result = pytester.runpytest_subprocess("--opensandbox-setup-timeout=0.5")

    result.assert_outcomes(passed=1)
    assert_nothing_is_left(server)


def test_the_ini_file_speaks_for_all_and_an_empty_setup_for_none(pytester, server, keeps):
    (pytester.path / "sub").mkdir()
    (pytester.path / "sub/words").write_text("from the host")
    pytester.makeini("""
        [pytest]
        opensandbox_put = sub=/workspace/sub
        opensandbox_setup =
            cp /workspace/sub/words /workspace/first
            cp /workspace/first /workspace/second
    """)
    pytester.makepyfile("""
        import pytest

        def test_ini(sandbox):
            assert sandbox.get("/workspace/second") == b"from the host"

        def test_factory(sandbox_factory):
            assert sandbox_factory().get("/workspace/second") == b"from the host"

        @pytest.mark.sandbox(setup="")
        def test_files_only(sandbox):
            assert sandbox.get("/workspace/sub/words") == b"from the host"
            assert not sandbox.run("test -e /workspace/first").ok

        @pytest.mark.sandbox(setup="", put={})
        def test_nothing(sandbox):
            assert not sandbox.run("test -e /workspace/sub").ok
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=4)
    header = "*setup=cp /workspace/sub/words /workspace/first; cp /workspace/fir* (ini), put=sub=/workspace/sub (ini)*"
    created = 5 if keeps else 4
    result.stdout.fnmatch_lines([header, f"opensandbox: {created} created, {created} deleted, 0 swept, 0 left"])
    assert_nothing_is_left(server)


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        pytest.param(
            "setup=3", "*setup must be a command for the shell, or a list of such commands; got 3", id="setup"
        ),
        pytest.param("put={'a': 'b'}", "*put*'a'* must be an absolute path inside the sandbox; got 'b'", id="put"),
    ],
)
def test_a_marker_that_breaks_a_rule_is_a_usage_error(pytester, marker, complaint):
    pytester.makepyfile(f"""
        import pytest

        @pytest.mark.sandbox({marker})
        def test_it(sandbox): pass
    """)

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([complaint])


def test_a_file_that_is_not_there_is_named(pytester, server):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(put={"no/such/file": "/workspace/file"})
        def test_it(sandbox): pass
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["opensandbox: put must name a file or directory that this user can read, * (No such file or directory: /*'"]
    )


def test_a_file_that_is_not_there_is_blamed_on_the_ini_key_that_names_it(pytester, server):
    pytester.makeini("[pytest]\nopensandbox_put = no/such/file=/workspace/file")
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: opensandbox_put must name a file or directory that this user can read*"])


def test_a_failed_test_says_what_prepared_its_sandbox(pytester, server, keeps):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(setup="echo setting up")
        def test_it(sandbox):
            sandbox.run("false", check=True)
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    told = ["id=*, image=*, restored after `echo setting up`, running; 1 command", "$ false"]
    result.stdout.fnmatch_lines(told if keeps else ["id=*; 2 commands", "$ echo setting up", "$ false"])


def test_hooks_see_the_sandboxes_of_tests_and_no_other(pytester, server, keeps):
    pytester.makeconftest("""
        seen = []

        def pytest_opensandbox_created(sandbox):
            seen.append(sandbox.get("/workspace/made") and sandbox.id)

        def pytest_opensandbox_closed(sandbox):
            seen.append(sandbox.id)
    """)
    pytester.makepyfile(f"""
        import pytest
        from conftest import seen

        @pytest.mark.sandbox(setup={SETUP!r})
        def test_it(sandbox):
            seen.append("test")

        def test_afterwards():
            assert seen == [seen[0], "test", seen[0]]
    """)

    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_snapshot_by_hand_is_restored_and_goes_with_the_run(pytester, server, keeps):
    pytester.makepyfile(f"""
        import pytest
        from pytest_opensandbox import ApiError

        @pytest.fixture(scope="module")
        def kept(sandbox_factory):
            with sandbox_factory(setup="") as sandbox:
                sandbox.run("mkdir -p /workspace && echo kept >/workspace/mark", check=True)
                return sandbox.snapshot("my words")

        @pytest.mark.sandbox(setup="")
        def test_refused(sandbox):
            if not {keeps}:
                with pytest.raises(ApiError, match="501 SNAPSHOT::NOT_IMPLEMENTED"):
                    sandbox.snapshot()

        @pytest.mark.skipif(not {keeps}, reason="no snapshots")
        def test_restored(kept, sandbox_factory, opensandbox_client):
            _, run, _, name = kept.name.split(".")
            assert name.startswith("my-words")
            for snapshot in (kept, kept.id):
                sandbox = sandbox_factory(snapshot=snapshot, setup="echo more >>/workspace/mark")
                assert sandbox.get("/workspace/mark") == b"kept\\nmore\\n"
                assert sandbox.metadata["pytest-opensandbox.run"] == run
            assert sandbox_factory(snapshot=kept).get("/workspace/mark") == b"kept\\n"
    """)

    result = pytester.runpytest_subprocess("--opensandbox-setup=exit 1")

    result.assert_outcomes(passed=2 if keeps else 1, skipped=0 if keeps else 1)
    assert_nothing_is_left(server)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("run_command", id="in the setup"),
        pytest.param("create_snapshot", id="before the snapshot's id is known"),
        pytest.param("wait_snapshot_ready", id="while the snapshot is made"),
    ],
)
def test_ctrl_c_while_a_sandbox_is_prepared_leaves_nothing(pytester, server, keeps, moment):
    if moment == "wait_snapshot_ready" and not keeps:
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
    assert_nothing_is_left(server)


def test_a_worker_that_dies_over_a_setup_keeps_nobody_waiting_and_leaves_nothing(pytester, server, keeps):
    # The lock is the kernel's, which lets go of what a dead process held; its half-made snapshot is the run's to sweep.
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
    assert (len(seen), len(set(seen))) == (3, 1 if keeps else 3)
    result.stdout.fnmatch_lines(["opensandbox: * 1 swept, 0 left; gw? crashed"])
    assert_nothing_is_left(server)


def test_the_snapshots_of_other_runs_are_left_alone(pytester, server, keeps):
    if not keeps:
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
    assert snapshots(server) == [name]
    with server.client() as client:
        for snapshot in client.list_snapshots(name=name):
            client.delete_snapshot(snapshot.id)


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["one process", "a worker"])
def test_a_snapshot_that_nobody_can_delete_is_named_and_does_not_change_the_outcome(pytester, server, keeps, arguments):
    if not keeps:
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
    named = f"snapshots stay on the server until somebody deletes them: {left.id} ({left.name})"
    result.stdout.fnmatch_lines([named, "the sweep stopped early: *not yours*"])
    assert result.stdout.str().count(f"LeakWarning: {named}") == 1


def test_a_setup_hands_no_test_s_labels_to_another_test(pytester, server):
    """Docker and the embedded server give a restored sandbox what its snapshot's source was created with."""
    pytester.makeconftest("""
        from dataclasses import replace

        def pytest_opensandbox_opts(opts, nodeid):
            return replace(opts, metadata={"kind": nodeid[-3:]} | ({"only": "one"} if "one" in nodeid else {}))
    """)
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.sandbox(setup="touch /tmp/made")

        def test_one(sandbox):
            pass

        def test_two(sandbox, opensandbox_client):
            told = opensandbox_client.get_sandbox(sandbox.id).metadata
            assert (told["kind"], told.get("only", "")) == ("two", "")
            assert "test_two" in told["pytest-opensandbox.test"]
            assert opensandbox_client.list_sandboxes({"only": "one"}) == []
    """)

    result = pytester.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=2)
