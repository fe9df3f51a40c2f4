"""A suite without sandboxes: the plugin imports, starts and contacts nothing, and prints its header only."""

import socket
import subprocess
import sys

import pytest

HEAVY = ("requests", "tenacity", "urllib3", "waitress", "multipart", "http.client", "tarfile")


def test_importing_the_plugin_imports_no_http():
    script = f"""
import sys
import pytest
before = set(sys.modules)
import pytest_opensandbox.plugin
new = set(sys.modules) - before
print(sorted(name for name in new if name.split(".")[0] in {HEAVY!r} or name in {HEAVY!r}))
"""

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"


@pytest.mark.parametrize("workers", [pytest.param((), id="one process"), pytest.param(("-n2",), id="two workers")])
def test_a_server_that_is_named_sees_no_connection(pytester, workers):
    pytester.makepyfile("def test_plain(opensandbox_settings): assert opensandbox_settings.lease_seconds == 120")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        result = pytester.runpytest_subprocess(
            f"--opensandbox-url=http://127.0.0.1:{listener.getsockname()[1]}", *workers
        )

        with pytest.raises(BlockingIOError):
            listener.accept()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*opensandbox: * created*")


def test_no_server_is_started_and_nothing_heavy_is_loaded(pytester):
    pytester.makepyfile(f"""
        import sys

        def test_plain(pytestconfig):
            assert not set({HEAVY[:-2]!r}) & set(sys.modules)
    """)

    result = pytester.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=1)


def test_the_plugin_can_be_switched_off(pytester):
    pytester.makepyfile("def test_plain(): pass")

    result = pytester.runpytest_subprocess("-p", "no:opensandbox", "-p", "no:pytest_opensandbox.plugin")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("opensandbox:*")
