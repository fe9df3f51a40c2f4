"""Setups: run once, and each test gets a sandbox restored from it; without snapshots each sandbox runs the setup."""

from tests.acceptance.setups import SETUP, SUITE, summary


def test_a_setup_runs_once_and_each_test_gets_a_fresh_sandbox(pytester, server, has_snapshots, xdist):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*xdist)

    result.assert_outcomes(passed=4)
    seen = (pytester.path / "seen").read_text().splitlines()
    assert (len(seen), len(set(seen))) == (4, 1 if has_snapshots else 4)
    result.stdout.fnmatch_lines(summary(made=1, has_snapshots=has_snapshots, restored=4))
    assert server.leftovers() == []


def test_without_snapshots_the_setup_runs_in_each_sandbox(pytester, server):
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
    result.stdout.fnmatch_lines(summary(made=0, has_snapshots=False, restored=4))
    assert server.leftovers() == []


def test_workers_that_have_a_server_each_run_a_setup_each(pytester):
    # A server cannot restore the snapshots of another one.
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("-n2")

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["opensandbox: * 0 swept, 0 left", "setup: *"])


def test_another_setup_file_or_variable_is_another_snapshot(pytester, server, has_snapshots):
    (pytester.path / "words").write_text("one")
    pytester.makepyfile(f"""
        from pathlib import Path

        def made(factory, **options):
            with factory(**{{"setup": {SETUP!r}, "put": {{"words": "/workspace/in/words"}}, **options}}) as sandbox:
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
            assert (first == same) is {has_snapshots}
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(summary(made=5, has_snapshots=has_snapshots, restored=6, builds=5))
    assert server.leftovers() == []


def test_the_ini_setup_is_for_all_tests_and_an_empty_one_overrides_it(pytester, server, has_snapshots):
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
    created = 5 if has_snapshots else 4
    result.stdout.fnmatch_lines([header, f"opensandbox: {created} created, {created} deleted, 0 swept, 0 left"])
    assert server.leftovers() == []


def test_a_failed_test_shows_the_setup_of_its_sandbox(pytester, server, has_snapshots):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.sandbox(setup="echo setting up")
        def test_it(sandbox):
            sandbox.run("false", check=True)
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    shown = ["id=*, image=*, restored after `echo setting up`, running; 1 command", "$ false"]
    result.stdout.fnmatch_lines(shown if has_snapshots else ["id=*; 2 commands", "$ echo setting up", "$ false"])


def test_hooks_see_the_sandboxes_of_tests_only(pytester, server, has_snapshots):
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


def test_a_setup_passes_no_labels_of_a_test_to_another_test(pytester, server):
    """Docker and the embedded server give a restored sandbox the labels of the snapshot's source."""
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
            labels = opensandbox_client.get_sandbox(sandbox.id).metadata
            assert (labels["kind"], labels.get("only", "")) == ("two", "")
            assert "test_two" in labels["pytest-opensandbox.test"]
            assert opensandbox_client.list_sandboxes({"only": "one"}) == []
    """)

    result = pytester.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=2)
