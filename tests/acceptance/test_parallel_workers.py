"""xdist: one run id, one summary, a server for each worker, and nothing left when a worker dies."""

import pytest

SUITE = """
    import pytest

    @pytest.mark.parametrize("n", range(4))
    def test_it(sandbox, opensandbox_client, n):
        tags = opensandbox_client.get_sandbox(sandbox.id).metadata
        with open("tags", "a") as file:
            print(tags["pytest-opensandbox.run"], tags["pytest-opensandbox.worker"], file=file)
        assert sandbox.run("echo hi").stdout == "hi\\n"
"""


def tags(pytester):
    return [line.split() for line in (pytester.path / "tags").read_text().splitlines()]


def test_every_way_has_one_run_id_and_one_summary(pytester, xdist):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*xdist)

    result.assert_outcomes(passed=4)
    header = next(line for line in result.outlines if line.startswith("opensandbox: embedded"))
    assert {run for run, _ in tags(pytester)} == {header.rpartition("run=")[2]}
    assert {worker for _, worker in tags(pytester)} <= ({"gw0", "gw1"} if "-n2" in xdist else {"main"})
    assert [line for line in result.outlines if " created, " in line] == [
        "opensandbox: 4 created, 4 deleted, 0 swept, 0 left"
    ]


def test_every_way_leaves_nothing_on_a_shared_server(pytester, server, xdist):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*xdist)

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["opensandbox: 4 created, 4 deleted, 0 swept, 0 left"])
    assert server.sandboxes() == []


def test_each_of_four_workers_has_an_embedded_server_of_its_own(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("n", range(8))
        def test_it(sandbox, opensandbox_client, worker_id, n):
            mine = opensandbox_client.list_sandboxes()
            assert {sandbox.metadata["pytest-opensandbox.worker"] for sandbox in mine} == {worker_id}
    """)

    result = pytester.runpytest_subprocess("-n4")

    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["opensandbox: 8 created, 8 deleted, 0 swept, 0 left"])


KILLED = """
    import os
    import pytest

    @pytest.mark.parametrize("n", range(3))
    def test_quiet(sandbox, n): pass

    def test_killed(sandbox): os._exit(1)
"""


def test_what_a_killed_worker_left_on_a_shared_server_is_swept(pytester, server):
    pytester.makepyfile(KILLED)

    result = pytester.runpytest_subprocess("-n1", "--max-worker-restart=0")

    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running*test_killed*"])
    result.stdout.fnmatch_lines(["opensandbox: 4 created, 3 deleted, 1 swept, 0 left; gw0 crashed"])
    assert server.sandboxes() == []


def test_a_killed_worker_is_swept_at_once_and_its_neighbour_is_not(pytester, server):
    pytester.makepyfile(
        test_neighbour="""
            import time

            def test_it(sandbox, opensandbox_client, opensandbox_settings):
                tags = {"pytest-opensandbox.project": opensandbox_settings.project}
                while len(opensandbox_client.list_sandboxes(tags)) < 2:
                    time.sleep(0.02)
                open("seen", "w").close()
                while len(opensandbox_client.list_sandboxes(tags)) > 1:
                    time.sleep(0.02)
                assert sandbox.run("true").ok
        """,
        test_killed="""
            import os, time

            def test_it(sandbox):
                while not os.path.exists("seen"):
                    time.sleep(0.02)
                os._exit(1)
        """,
    )

    result = pytester.runpytest_subprocess("-n2", "--dist=loadfile", "--max-worker-restart=0", timeout=60)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["opensandbox: 2 created, 1 deleted, 1 swept, 0 left; gw? crashed"])
    assert server.sandboxes() == []


def test_a_killed_worker_takes_its_embedded_server_along(pytester):
    pytester.makepyfile(KILLED)

    result = pytester.runpytest_subprocess("-n1", "--max-worker-restart=0")

    result.stdout.fnmatch_lines(["opensandbox: 4 created, 4 deleted, 0 swept, 0 left; gw0 crashed"])


def test_ctrl_c_in_a_worker_leaves_nothing_on_a_shared_server(pytester, server):
    pytester.makepyfile("""
        import os, signal

        def test_it(sandbox): os.kill(os.getpid(), signal.SIGINT)
    """)

    result = pytester.runpytest_subprocess("-n1")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert server.sandboxes() == []


def test_ctrl_c_leaves_nothing_when_xdist_kills_a_worker_in_teardown(pytester, server):
    pytester.makeconftest("from xdist.workermanage import NodeManager; NodeManager.EXIT_TIMEOUT = 1")
    pytester.makepyfile("""
        import os, signal, time
        import pytest

        @pytest.fixture
        def slow(sandbox):
            yield
            time.sleep(60)

        def test_it(slow):
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(60)
    """)

    result = pytester.runpytest_subprocess("-n1", timeout=60)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert server.sandboxes() == []
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_what_ended_with_stopped_workers_is_not_reported_as_left(pytester, number):
    """After Ctrl-C the controller receives no reports, so it last knows that the workers' sandboxes run."""
    pytester.makepyfile(f"""
        import os, signal, time
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_it(sandbox, worker_id, n):
            sandbox.run("true")
            open(worker_id, "w").close()
            while not (os.path.exists("gw0") and os.path.exists("gw1")):
                time.sleep(0.02)
            if worker_id == "gw0":
                time.sleep(1)  # the reports of both set-ups reach the controller
                os.kill(os.getppid(), signal.{number})
            time.sleep(60)
    """)

    result = pytester.runpytest_subprocess("-n2", timeout=60)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["opensandbox: 2 created, 2 deleted, 0 swept, 0 left; gw0, gw1 stopped before reporting all"]
    )
    result.stdout.no_fnmatch_line("*LeakWarning*")
    result.stdout.no_fnmatch_line("*did not end*")
