"""An embedded server that dies during a run: the report names it, the next test gets a new one, and nothing is left."""

import pytest

KILLER = """
    import os, signal, time
    from pathlib import Path
    import pytest

    def children(pid):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]

    def command(pid):
        return Path(f"/proc/{pid}/cmdline").read_bytes()

    def kill_server():
        for child in children(os.getpid()):
            if b"pytest_opensandbox.embedded" in command(child):
                os.kill(child, signal.SIGKILL)
                os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # the plugin can still read its exit status
"""
WAYS = [pytest.param((), "", id="alone"), pytest.param(("-n1",), " of gw0", id="a worker")]


@pytest.mark.parametrize(("way", "whose"), WAYS)
def test_the_next_test_has_a_new_server_and_the_summary_names_the_dead_one(pytester, way, whose):
    pytester.makepyfile(
        test_it=f"""{KILLER}
    def test_before(sandbox): pass

    def test_killed(sandbox):
        kill_server()
        sandbox.run("true")

    @pytest.mark.parametrize("n", range(2))
    def test_after(sandbox, n):
        assert sandbox.run("echo hi").stdout == "hi\\n"
    """
    )

    result = pytester.runpytest_subprocess(*way)

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*_ test_killed _*",
            "*- embedded server -*",
            "The embedded server of this test was killed by SIGKILL, and its sandboxes ended with it.",
            "The next test that needs a sandbox gets a new server.",
            "opensandbox: 4 created, 4 deleted, 0 swept, 0 left",
            f"the embedded server{whose} was killed by SIGKILL in test_it.py::test_killed; *",
        ]
    )
    result.stdout.no_fnmatch_line("*LeakWarning*")


def test_a_server_that_dies_in_a_create_condemns_nobody_else(pytester):
    pytester.makeconftest(f"""{KILLER}
    from pytest_opensandbox import Client

    create = Client.create_sandbox
    created = []

    def create_on_a_dead_server(self, opts):
        created.append(opts)
        if len(created) == 1:
            kill_server()
        return create(self, opts)

    Client.create_sandbox = create_on_a_dead_server
    """)
    pytester.makepyfile("""
        def test_first(sandbox): pass

        def test_second(sandbox): assert sandbox.run("true").ok
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*- embedded server -*", "opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


@pytest.mark.thorough
def test_a_server_that_ends_slowly_fails_one_test_only(pytester, monkeypatch):
    """After SIGTERM the server still answers for a moment: a sandbox is created, and ends with the others."""
    pytester.makepyfile(
        sitecustomize="""
            import time
            from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

            close = SandboxRegistry.close

            def close_slowly(self):
                ended = close(self)
                time.sleep(0.5)
                return ended

            SandboxRegistry.close = close_slowly
        """
    )
    pytester.makeconftest(f"""{KILLER}
    from pytest_opensandbox import Client

    wait = Client.wait_ready_endpoint
    waits = []

    def wait_for_what_ends(self, sandbox_id, **options):
        waits.append(sandbox_id)
        if len(waits) == 1:
            for child in children(os.getpid()):
                if b"pytest_opensandbox.embedded" in command(child):
                    os.kill(child, signal.SIGTERM)
            while any(sandbox.id == sandbox_id for sandbox in self.list_sandboxes()):
                time.sleep(0.01)
        return wait(self, sandbox_id, **options)

    Client.wait_ready_endpoint = wait_for_what_ends
    """)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(sandbox, n): assert sandbox.run("true").ok
    """)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*- embedded server -*", "the embedded server ended with status 0 in *test_it[[]0[]]*"]
    )


@pytest.mark.thorough
def test_what_outlives_a_test_is_created_anew_or_named(pytester):
    """The snapshot of a setup and a session's sandbox end with their server; the client goes on with the new server."""
    pytester.makepyfile(f"""{KILLER}
    SETUP = "echo $RANDOM > /tmp/mark"

    @pytest.fixture(scope="session")
    def wide(sandbox_factory):
        return sandbox_factory()

    @pytest.mark.sandbox(setup=SETUP)
    def test_prepared(sandbox, wide, opensandbox_client):
        assert opensandbox_client.get_sandbox(sandbox.id).is_running

    def test_killed():
        kill_server()

    def test_client(opensandbox_client):
        assert opensandbox_client.list_sandboxes() == []

    @pytest.mark.sandbox(setup=SETUP)
    def test_prepared_again(sandbox):
        assert sandbox.run("cat /tmp/mark").stdout

    def test_wide(wide):
        wide.run("true")
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*_ test_wide _*",
            "*- embedded server -*",
            "opensandbox: 5 created, 5 deleted, 0 swept, 0 left",
            "setup: 2 prepared and kept in *",
        ]
    )


def test_a_run_whose_server_died_at_its_very_end_does_not_wait_for_it(pytester):
    pytester.makepyfile(f"""{KILLER}
    def test_killed(sandbox, sandbox_factory):
        sandbox_factory()
        kill_server()
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["opensandbox: 2 created, 2 deleted, 0 swept, 0 left", "the embedded server was killed by SIGKILL*"]
    )
    result.stdout.no_fnmatch_line("*sweep stopped early*")


def test_a_server_that_lives_is_no_excuse(pytester, server):
    pytester.makepyfile("""
        def test_failing(sandbox):
            assert sandbox.run("false").ok
    """)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*embedded server*")


@pytest.mark.thorough
def test_a_sandbox_that_does_not_end_is_counted_as_left(pytester, monkeypatch):
    # The server's own process. One that cannot be killed is rare, and the plugin waits ten seconds for each.
    pytester.makepyfile(
        sitecustomize="""
            import pytest_opensandbox.embedded.state.sandboxes as registry
            from pytest_opensandbox.embedded.runtime.sandbox_process import SandboxProcess

            registry.END_SECONDS = 0.1
            SandboxProcess.kill = lambda self: None
        """
    )
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess("-p", "no:warnings")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["opensandbox: 1 created, 0 deleted, 0 swept, 1 left", "did not end when the embedded server ended them; *"]
    )
