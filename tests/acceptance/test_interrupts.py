"""Ctrl-C, signals and kills: pytest skips teardowns then, and the plugin must delete the sandboxes all the same."""

import fcntl
import os
import signal
import subprocess
import sys
import time
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


def test_the_sweep_deletes_what_a_handle_cannot_delete(pytester, server):
    pytester.makeconftest("""
        from pytest_opensandbox import Client
        from pytest_opensandbox.errors import TransportError

        delete = Client.delete_sandbox
        calls = []

        def fail_once(self, sandbox_id):
            calls.append(sandbox_id)
            if len(calls) == 1:
                raise TransportError("cut", method="DELETE", url="http://test")
            return delete(self, sandbox_id)

        Client.delete_sandbox = fail_once
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["opensandbox: 1 created, 0 deleted, 1 swept, 0 left"])
    assert server.sandboxes() == []


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        pytest.param((), True, id="one process"),
        pytest.param(("-n1",), True, id="a worker"),
        pytest.param(("-W", "error"), False, id="warnings are errors"),
        pytest.param(("-p", "no:warnings"), False, id="warnings are not collected"),
    ],
)
def test_a_sandbox_that_cannot_be_deleted_is_named_without_failing(pytester, server, arguments, warned):
    pytester.makeconftest("""
        from pytest_opensandbox import Client
        from pytest_opensandbox.errors import AuthError

        def fail(self, sandbox_id):
            raise AuthError(403, message="not yours")

        Client.delete_sandbox = fail
    """)
    pytester.makepyfile("def test_it(sandbox): pass")

    result = pytester.runpytest_subprocess(*arguments)

    left = server.sandboxes()
    with server.client() as client:
        for sandbox_id in left:
            client.delete_sandbox(sandbox_id)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "opensandbox: 1 created, 0 deleted, 0 swept, 1 left",
            f"still running until ??:??:??, when their lease ends: {left[0]}",
            f"to delete them now: python -m pytest_opensandbox sweep --run ???????????? --opensandbox-url={server.url}",
            "the sweep stopped early: *not yours*",
        ]
    )
    assert result.ret == pytest.ExitCode.OK
    assert result.stdout.str().count("LeakWarning: sandboxes may run until ") == warned
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_the_sweep_leaves_other_runs_alone(pytester, server):
    pytester.makepyfile("""
        from pytest_opensandbox import SandboxOpts

        def test_it(sandbox, opensandbox_client, opensandbox_settings):
            tags = {"pytest-opensandbox.run": "another", "pytest-opensandbox.project": opensandbox_settings.project}
            opensandbox_client.create_sandbox(SandboxOpts(image=sandbox.image, metadata=tags))
    """)

    pytester.runpytest_subprocess()

    with server.client() as client:
        tags = {"pytest-opensandbox.run": "another", "pytest-opensandbox.project": server.project}
        left = client.list_sandboxes(tags)
        for sandbox in left:
            client.delete_sandbox(sandbox.id)
    assert len(left) == 1


@pytest.mark.parametrize("way", [pytest.param((), id="alone"), pytest.param(("-n1",), id="a worker")])
def test_a_later_run_removes_the_temporary_files_of_a_killed_run(pytester, monkeypatch, way):
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    pytester.makepyfile(
        test_killed="""
            import os, signal
            import pytest

            @pytest.mark.sandbox(setup="true")
            def test_it(sandbox):
                os.killpg(0, signal.SIGKILL)
        """,
        test_later="def test_it(sandbox): pass",
    )

    def ours():
        return sorted(path for path in temporary.glob("pytest-opensandbox-*"))

    killed = pytester.popen(
        [sys.executable, "-m", "pytest", "test_killed.py", *way],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    killed.wait()
    left = ours()
    wait_for(lambda: not any(map(is_held, left)))
    for path in ours():
        os.utime(path, (0, 0))

    result = pytester.runpytest_subprocess("test_later.py")

    result.assert_outcomes(passed=1)
    assert any("setups" in path.name for path in left)
    assert ours() == []


def is_held(path):
    """Return whether a living process uses a directory."""
    try:
        with open(path / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return path.exists()
    except BlockingIOError:
        return True
    return False


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_embedded_server_ends_when_pytest_is_killed(pytester, number):
    pytester.makepyfile("""
        import pathlib, time

        def test_it(sandbox):
            pathlib.Path("ready").touch()
            time.sleep(60)
    """)
    process = pytester.popen([sys.executable, "-m", "pytest"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((pytester.path / "ready").exists)
    family = descendants(process.pid)

    process.send_signal(number)
    process.wait()

    assert "bwrap" in family.values()
    wait_for(lambda: not any(is_alive(pid, name) for pid, name in family.items()))


def wait_for(condition, *, seconds=20):
    """Return when the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.02)


def descendants(pid):
    """Return the names of all descendants of a process by id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        name, _, parent = process_facts(int(entry.name))
        if parent == pid:
            found |= {int(entry.name): name} | descendants(int(entry.name))
    return found


def is_alive(pid, name):
    """Return whether a process with that id and name runs; a zombie does not."""
    found, state, _ = process_facts(pid)
    return found == name and state != "Z"


def process_facts(pid):
    """Return name, state and parent's id of a process; empty values if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", "", 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return name, state, int(parent)
