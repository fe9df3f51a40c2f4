"""Ctrl-C and signals: pytest skips teardowns then, and the plugin must delete the sandboxes all the same."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SIGINT_HERE = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


def assert_interrupted_and_clean(result, server):
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert server.sandboxes() == []


def test_ctrl_c_while_a_sandbox_becomes_ready_leaves_nothing(pytester, server):
    pytester.makeconftest(f"""
        from pytest_opensandbox import Client

        def wait(self, *args, **kwargs):
            {SIGINT_HERE}

        Client.wait_ready_endpoint = wait
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    assert_interrupted_and_clean(result, server)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


def test_ctrl_c_between_the_creation_and_its_answer_leaves_nothing(pytester, server):
    pytester.makeconftest(f"""
        from pytest_opensandbox import Client

        create = Client.create_sandbox

        def create_and_interrupt(self, opts):
            create(self, opts)
            {SIGINT_HERE}

        Client.create_sandbox = create_and_interrupt
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    assert_interrupted_and_clean(result, server)


def test_ctrl_c_in_the_set_up_of_the_sandbox_leaves_nothing(pytester, server):
    pytester.makeconftest(f"""
        def pytest_opensandbox_created(sandbox):
            {SIGINT_HERE}
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    assert_interrupted_and_clean(result, server)


@pytest.mark.parametrize("fixture", ["sandbox", "sandbox_factory"])
def test_ctrl_c_in_the_set_up_of_a_later_fixture_leaves_nothing(pytester, server, fixture):
    pytester.makepyfile(f"""
        import pytest

        @pytest.fixture
        def later({fixture}):
            if callable({fixture}):
                {fixture}()
            {SIGINT_HERE}

        def test_it(later): pass
    """)

    result = pytester.runpytest_subprocess()

    assert_interrupted_and_clean(result, server)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


@pytest.mark.parametrize("fixture", ["sandbox", "sandbox_factory"])
def test_ctrl_c_in_a_test_leaves_nothing(pytester, server, fixture):
    pytester.makepyfile(f"""
        def test_it({fixture}):
            if callable({fixture}):
                {fixture}()
            {SIGINT_HERE}
    """)

    result = pytester.runpytest_subprocess()

    assert_interrupted_and_clean(result, server)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 1 deleted, 0 swept, 0 left"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("where", ["fixture", "test"])
def test_a_run_that_gets_a_signal_ends_as_after_ctrl_c(pytester, server, number, where):
    kill = f"import os; os.kill(os.getpid(), {int(number)})"
    pytester.makepyfile(f"""
        import pytest

        @pytest.fixture
        def later(sandbox):
            {kill if where == "fixture" else "pass"}

        def test_it(later):
            {kill}
    """)

    result = pytester.runpytest_subprocess()

    assert_interrupted_and_clean(result, server)
    result.stdout.fnmatch_lines(
        ["opensandbox: 1 created, 1 deleted, 0 swept, 0 left", f"*KeyboardInterrupt: {number.name} received"]
    )


def test_with_signals_turned_off_a_signal_ends_pytest_at_once(pytester, server):
    pytester.makeini("[pytest]\nopensandbox_signals = no")
    pytester.makepyfile("""
        import os, signal

        def test_it(sandbox):
            os.kill(os.getpid(), signal.SIGTERM)
    """)

    result = pytester.runpytest_subprocess()

    with server.client() as client:
        for sandbox_id in server.sandboxes():
            client.delete_sandbox(sandbox_id)
    assert result.ret == -signal.SIGTERM


def test_after_ctrl_c_a_fixtures_teardown_still_has_its_sandbox(pytester, server):
    pytester.makepyfile(f"""
        import pytest

        @pytest.fixture
        def logged(sandbox):
            yield
            print("last words:", sandbox.run("cat /tmp/log").stdout)

        def test_it(sandbox, logged):
            sandbox.run("echo farewell > /tmp/log")
            {SIGINT_HERE}
    """)

    result = pytester.runpytest_subprocess("-s")

    assert_interrupted_and_clean(result, server)
    result.stdout.fnmatch_lines(["*last words: farewell"])


def test_a_second_ctrl_c_in_a_teardown_leaves_nothing(pytester, server):
    pytester.makepyfile(f"""
        import pytest

        @pytest.fixture
        def slow(sandbox):
            yield
            {SIGINT_HERE}

        def test_it(slow):
            {SIGINT_HERE}
    """)

    result = pytester.runpytest_subprocess()

    assert result.ret != 0
    assert server.sandboxes() == []


def test_a_session_that_is_stopped_by_pytest_exit_leaves_nothing(pytester, server):
    pytester.makepyfile("""
        import pytest

        def test_it(sandbox): pytest.exit("enough", returncode=7)
    """)

    result = pytester.runpytest_subprocess()

    assert result.ret == 7
    assert server.sandboxes() == []


def test_these_tests_may_run_with_signals_ignored_by_the_parent(request):
    """Under nohup and in a background job SIGHUP and SIGINT are ignored, which every child process inherits."""
    root, here = request.config.rootpath, Path(__file__)

    def ignore():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)

    tests = ("test_ctrl_c_in_a_test_leaves_nothing", "test_child_processes_have_the_default_signal_handlers")
    options = ["-c", root / "pyproject.toml", f"--rootdir={root}", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(f"{here}::{name}" for name in tests)],
        preexec_fn=ignore,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout


def test_child_processes_have_the_default_signal_handlers():
    code = "import signal; print([signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)])"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said.count("SIG_DFL") == 3
