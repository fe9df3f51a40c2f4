"""Runs that are killed: their embedded server ends with them, and a later run removes their temporary files."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


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
