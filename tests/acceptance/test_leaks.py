"""Leaks: a run leaves no sandbox, process or snapshot, however it ends, and leaves those of other runs alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from pytest_opensandbox import Client, SandboxOpts
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.sandbox.snapshot import run_prefix
from pytest_opensandbox.sandbox.tracking import TAG_PROJECT, TAG_RUN
from tests.acceptance.endings import ENDINGS, LEASE_SECONDS, ONE_PROCESS, TABLE, TWO_WORKERS
from tests.embedded.machine import wait_until
from tests.figures import DIRECTORY

PROJECT = f"leaks-{os.getpid()}"
MARK = "OPENSANDBOX_TEST_CASE"
"""Environment variable that identifies the processes of a run, orphans included."""
WAYS = {
    ONE_PROCESS: ("-p", "no:xdist"),
    # A dead worker is not replaced, because no tests are left for a new one.
    TWO_WORKERS: ("-n2", "--max-worker-restart=0"),
}
CASES = [(name, way) for name, ending in ENDINGS.items() for way in ending.ways if not ending.is_of_own_server]
FATAL = [(name, way) for name, way in CASES if way in ENDINGS[name].fatal]
OWN = [
    *FATAL,
    *((name, way) for name, ending in ENDINGS.items() for way in ending.ways if ending.is_of_own_server),
    ("Ctrl-C, and again in the teardown", ONE_PROCESS),
    ("a fork calls os._exit", ONE_PROCESS),
    ("SIGKILL to the worker", TWO_WORKERS),
    ("SIGKILL to pytest", TWO_WORKERS),
]


WORST = re.compile("SIG|exit|kind")
"""The endings after which the plugin can run least code; a plain ``tox`` tests these, with workers."""


def case(name: str, way: str) -> object:
    """Return the parameters of a test, marked unless the ending is one of the worst."""
    is_quick = way == TWO_WORKERS and WORST.search(name)
    return pytest.param(name, way, id=f"{name}, {way}", marks=[] if is_quick else pytest.mark.thorough)


@dataclass(frozen=True)
class Ended:
    """A run whose pytest has ended; some of its processes may still live."""

    process: subprocess.Popen[bytes]
    mark: str
    output: str
    directory: Path

    @property
    def run_id(self) -> str:
        return re.search(r"\brun=(\w+)", self.output).group(1)

    def processes(self) -> list[int]:
        """Return the ids of its processes that are still alive."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """Kill the processes that a test has left on purpose."""
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def end(pytester, request):
    """Run the suite of an ending in a process group of its own, and return the ended run."""
    ended = []

    def end(name, way, *arguments):
        ending, mark = ENDINGS[name], uuid.uuid4().hex
        directory = pytester.path / mark / PROJECT
        directory.mkdir(parents=True)
        (directory / "test_suite.py").write_text(ending.suite)
        (directory / "conftest.py").write_text(textwrap.dedent(ending.conftest))
        options = (*WAYS[way], *ending.arguments, f"--opensandbox-lease={LEASE_SECONDS}", "--rootdir=.", *arguments)
        with open(directory / "output", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options],
                cwd=directory,
                env={**_outside_of_xdist(), MARK: mark, "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with suppress(subprocess.TimeoutExpired):
            process.wait(120)
        ended.append(Ended(process, mark, (directory / "output").read_text(), directory))
        assert process.returncode is not None, f"it hangs:\n{ended[-1].output}"
        return ended[-1]

    yield end
    for run in ended:
        run.kill()


@pytest.fixture(scope="module")
def foreign(running_server, opensandbox_settings) -> Iterator[set[str]]:
    """Sandboxes of another run, of another project, and one that was made by hand."""
    labels = [{TAG_PROJECT: PROJECT, TAG_RUN: "another"}, {TAG_PROJECT: "another", TAG_RUN: "athird"}, {}]
    with Client(running_server.url, running_server.api_key) as client:
        made = {
            client.create_sandbox(SandboxOpts(image=opensandbox_settings.image, metadata=metadata, timeout=7200)).id
            for metadata in labels
        }
        yield made
        for sandbox_id in made:
            client.delete_sandbox(sandbox_id)


@pytest.fixture
def look(server, foreign):
    """Return the sandboxes and snapshots that a run has left, after checking that the foreign sandboxes still run."""
    with server.client() as client:

        def look(run):
            found = client.list_sandboxes()
            assert foreign <= {sandbox.id for sandbox in found if sandbox.state == "Running"}
            sandboxes = [sandbox for sandbox in found if sandbox.metadata.get(TAG_RUN) == run.run_id]
            prefix = run_prefix(run.run_id)
            snapshots = [snapshot for snapshot in client.list_snapshots() if snapshot.name.startswith(prefix)]
            return [*sandboxes, *snapshots]

        yield look


@pytest.fixture
def record(opensandbox_settings):
    """Record a figure for the page."""
    return lambda name, way, text: TABLE.record(name, f"{opensandbox_settings.url}, {way}", text)


@pytest.mark.thorough
def test_the_lease_ends_what_no_code_of_the_plugin_can_delete(end, look, record, server, pytester):
    """All fatal endings wait for their leases together, in real time; a sandbox without a lease would run for ever.

    This test is the first one, so that other workers run the rest meanwhile. Snapshots have no lease and are deleted
    with the command.
    """
    with ThreadPoolExecutor(len(FATAL)) as pool:
        runs = dict(zip(FATAL, pool.map(lambda case: end(*case), FATAL), strict=True))
    found = {case: look(run) for case, run in runs.items()}
    left = {case: _sandboxes(items) for case, items in found.items()}
    with server.client() as client:
        last = client.server_time() + timedelta(seconds=LEASE_SECONDS)
    overdue = [sandbox for sandboxes in left.values() for sandbox in sandboxes if sandbox.expires_at > last]

    def all_gone():
        time.sleep(1)
        return not any(_sandboxes(look(run)) for run in runs.values())

    gone = wait_until(all_gone, seconds=2 * LEASE_SECONDS)

    for run in runs.values():
        if look(run):
            pytester.run(sys.executable, "-m", "pytest_opensandbox", "sweep", "--run", run.run_id)
    for case, sandboxes in left.items():
        snapshots = len(found[case]) - len(sandboxes)
        more = f"; {snapshots} snapshots, 0 after `sweep --run`" if snapshots else ""
        record(*case, f"{len(sandboxes)}, 0 after the lease{more}")
    assert all(left.values())
    assert overdue == []
    assert gone
    assert not any(look(run) for run in runs.values())


@pytest.mark.parametrize(("name", "way"), [case(*pair) for pair in CASES if pair not in FATAL])
def test_nothing_is_left(end, look, record, name, way):
    run = end(name, way)

    left = after = look(run)
    if way in ENDINGS[name].late:
        assert wait_until(lambda: not run.processes())
        after = look(run)
    record(name, way, f"{len(left)}, {len(after)} when its workers have ended" if left else "0")
    assert after == [], run.output
    assert left == [] or way in ENDINGS[name].late
    assert (run.directory / "proof").exists() or not ENDINGS[name].has_proof, run.output


@pytest.mark.parametrize(("name", "way"), [case(*pair) for pair in OWN])
def test_an_embedded_server_ends_with_its_run(end, name, way):
    run = end(name, way, "--opensandbox-url=embedded", "--opensandbox-image=host")

    assert wait_until(lambda: not run.processes()), run.processes()
    assert (run.directory / "proof").exists() or not ENDINGS[name].has_proof, run.output
    if ENDINGS[name].is_of_own_server:
        assert ", 0 left" in run.output
        TABLE.record(name, f"embedded, {way}", "0")


@pytest.mark.skipif(DIRECTORY in os.environ, reason="the page is being written")
def test_the_page_shows_what_is_tested():
    assert list(dict.fromkeys(row for row, _ in TABLE.on_page())) == list(TABLE.rows)


def _sandboxes(found):
    """Return the sandboxes among sandboxes and snapshots."""
    return [item for item in found if isinstance(item, SandboxResponse)]


def _outside_of_xdist():
    """Return the environment without the variables of an xdist worker, because the inner pytest is none."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
