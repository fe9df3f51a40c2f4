"""Medians of the times that a test waits for, side by side with the official SDK on one embedded server.

Run it with `tox run -e bench`. The two clients take turns, so that a busy machine slows both: compare the
ratios, not the times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from opensandbox.config import ConnectionConfigSync
from opensandbox.sync.sandbox import SandboxSync

from pytest_opensandbox import Client, Sandbox, SandboxOpts
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import RunTags
from pytest_opensandbox.servers.server_process import start_embedded

MEGABYTE = 1_000_000
FILE_BYTES = 50 * MEGABYTE

Measure = tuple[str, int, Callable[[], object], Callable[[], object] | None]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="how often each time is measured (default: 20)")
    rounds = parser.parse_args().rounds
    print(f"{'':34}{'ours':>12}{'SDK':>12}{'SDK / ours':>12}")
    with start_embedded() as server:
        lifecycle = Lifecycle(Client(server.url, server.api_key), tags=RunTags("benchmark"))
        connection = ConnectionConfigSync(api_key=server.api_key, domain=urlsplit(server.url).netloc, protocol="http")
        measure_creates(lifecycle, connection, rounds)
        measure_calls(lifecycle, connection, rounds)
        lifecycle.close()
    measure_imports(rounds)


def measure_creates(lifecycle: Lifecycle, connection: ConnectionConfigSync, rounds: int) -> None:
    """Print the time from a create until a command can run in the sandbox."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        sandbox = Sandbox.launch(lifecycle, SandboxOpts(image="host"))
        ours.append(time.perf_counter() - start)
        sandbox.close()
        start = time.perf_counter()
        sdk = SandboxSync.create("host", connection_config=connection, timeout=timedelta(minutes=5))
        theirs.append(time.perf_counter() - start)
        sdk.kill()
        sdk.close()
    show("create to ready", ours, theirs)


def measure_calls(lifecycle: Lifecycle, connection: ConnectionConfigSync, rounds: int) -> None:
    """Print the times of commands and copies in one sandbox each."""
    sdk = SandboxSync.create("host", connection_config=connection, timeout=timedelta(minutes=5))
    with Sandbox.launch(lifecycle, SandboxOpts(image="host")) as sandbox, tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "large")
        large.write_bytes(os.urandom(FILE_BYTES))
        few = max(3, rounds // 4)
        measures: list[Measure] = [
            ('run("true")', rounds, lambda: sandbox.run("true"), lambda: sdk.commands.run("true")),
            ('run("echo hi")', rounds, lambda: sandbox.run("echo hi"), lambda: sdk.commands.run("echo hi")),
            ("200,000 lines of output", 3, lambda: sandbox.run("seq 200000"), lambda: sdk.commands.run("seq 200000")),
            ("put 50 MB", few, lambda: sandbox.put(large, "/tmp/a"), lambda: write_with_sdk(sdk, large, "/tmp/b")),
            ("get 50 MB", few, lambda: sandbox.get("/tmp/a", large), lambda: sdk.files.read_bytes("/tmp/b")),
        ]
        for name, times, ours, theirs in measures:
            show(name, *turn_by_turn(times, ours, theirs))
    sdk.kill()
    sdk.close()


def measure_imports(rounds: int) -> None:
    """Print what loading the plugin adds to a suite that uses no sandbox, and what importing the SDK costs."""
    plain = "import pytest"
    ours, theirs = turn_by_turn(
        rounds,
        lambda: python(f"{plain}, pytest_opensandbox.plugin"),
        lambda: python(f"{plain}, opensandbox"),
    )
    base, _ = turn_by_turn(rounds, lambda: python(plain), None)
    floor = statistics.median(base)
    show("import tax on pytest", [value - floor for value in ours], [value - floor for value in theirs])


def write_with_sdk(sdk: SandboxSync, source: Path, target: str) -> None:
    """Upload a file with the SDK, from an open file."""
    with source.open("rb") as file:
        sdk.files.write_file(target, file)


def turn_by_turn(
    times: int, ours: Callable[[], object], theirs: Callable[[], object] | None
) -> tuple[list[float], list[float]]:
    """Call both, alternating, and return their seconds."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for kept, call in zip(seconds, (ours, theirs), strict=True):
            if call is not None:
                start = time.perf_counter()
                call()
                kept.append(time.perf_counter() - start)
    return seconds


def python(code: str) -> None:
    """Run a fresh interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True)


def show(name: str, ours: list[float], theirs: list[float]) -> None:
    """Print one row of medians."""
    here, there = statistics.median(ours), statistics.median(theirs)
    print(f"{name:34}{here * 1000:>9.1f} ms{there * 1000:>9.1f} ms{there / here:>12.1f}")


if __name__ == "__main__":
    main()
