"""Simulates 1,000 tests on 32 workers against OpenSandbox on Kubernetes; prints the table of docs/scaling-out.md.

Run it with `tox run -e bench-fleet`. The server is `tests/fleet`: one process that answers as opensandbox-server 1.1.1
does in front of a cluster, with the delays of its `Model`, which are assumptions. The client is this package: a
`Lifecycle` and a `Client` for each worker, a thread instead of a process, and one queue of tests. Every second of the
cluster takes `--time-factor` seconds here. The time-outs are shortened with it, the polling intervals are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pytest_opensandbox import Client, OpenSandboxError, Sandbox, SandboxOpts  # noqa: E402 - needs the path
from pytest_opensandbox.client.sandbox_opts import POOL_EXTENSION  # noqa: E402
from pytest_opensandbox.sandbox.lifecycle import Lifecycle  # noqa: E402
from pytest_opensandbox.sandbox.tracking import RunTags  # noqa: E402
from tests.fleet.model import Delay, Model, Pool  # noqa: E402
from tests.fleet.server import API_KEY  # noqa: E402

DOCS = ROOT / "docs/scaling-out.md"
BEGIN, END = "<!-- fleet:begin -->", "<!-- fleet:end -->"
HEAD = (
    "| sandboxes | workers | all tests | tests a second | ready p50 | p95 | worst | 429 | 504 | failed | left |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)
TEST = Delay(2.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row of the table."""

    name: str
    workers: int = 32
    pool: Pool | None = None
    """The pool of the sandboxes; None for a pod created for each sandbox."""
    places: int = 64
    """How many pods outside a pool fit into the cluster."""
    test: Delay = TEST
    """How long a test uses its sandbox."""
    part: float = 1.0
    """Part of the tests that are run."""
    ready_timeout: float = 60.0
    """``--opensandbox-ready-timeout``; seconds."""


@dataclass
class Outcome:
    """The measurements of one row; seconds of the cluster."""

    readies: list[float] = field(default_factory=list)
    """From asking for a sandbox until commands can run in it."""
    failed: list[str] = field(default_factory=list)
    """Errors of the tests that got no sandbox."""
    took: float = 0.0
    """From the first test's beginning to the last one's end."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The cluster's counts."""
    load: float = 0.0
    """Part of one core that the busier of the two processes used."""


def pool(pods: int, **changes: Any) -> Pool:
    """Return a pool that keeps as many pods warm as it may have, and starts as many at once."""
    return Pool(
        **{"max_pods": pods, "min_pods": pods, "buffer_min": 0, "buffer_max": pods, "max_unavailable": 1.0} | changes
    )


LONG = Delay(30.0, 60.0)
SCENARIOS = (
    Scenario(name="no pool, 64 places"),
    Scenario(name="no pool, 24 places", places=24),
    Scenario(name="pool of 32, maxUnavailable 25%", pool=pool(32, max_unavailable=0.25)),
    Scenario(name="pool of 64, maxUnavailable 25%", pool=pool(64, max_unavailable=0.25)),
    Scenario(name="pool of 32", pool=pool(32)),
    Scenario(name="pool of 64", pool=pool(64)),
    Scenario(name="pool of 128", pool=pool(128)),
    Scenario(name="pool of 128, buffer 4 to 8", pool=pool(128, min_pods=0, buffer_min=4, buffer_max=8)),
    Scenario(name="pool of 64, Restart", pool=pool(64, recycle="Restart")),
    Scenario(name="pool of 32, Restart", pool=pool(32, recycle="Restart")),
    Scenario(name="pool of 16, Restart", pool=pool(16, recycle="Restart")),
    Scenario(name="pool of 8, Restart", pool=pool(8, recycle="Restart")),
    Scenario(name="pool of 64", workers=16, pool=pool(64)),
    Scenario(name="pool of 64", workers=8, pool=pool(64)),
    Scenario(name="pool of 8, 200 tests of 30 s", pool=pool(8), test=LONG, part=0.2),
    Scenario(name="the same, waiting 600 s", pool=pool(8), test=LONG, part=0.2, ready_timeout=600.0),
    Scenario(name="a worker for each of its pods", workers=8, pool=pool(8), test=LONG, part=0.2),
)


def main() -> None:
    """Run the rows and print the table; write it into the page with `--write`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=1000, help="how many tests a row has (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="draws every delay (default: 1)")
    parser.add_argument("--time-factor", type=float, default=0.2, help="seconds for a second there (default: 0.2)")
    parser.add_argument("--only", default="", help="rows whose name begins so (default: all)")
    parser.add_argument("--write", action="store_true", help="put it all into docs/scaling-out.md")
    given = parser.parse_args()
    lines, loads = list(HEAD), []
    print(*lines, sep="\n", flush=True)
    for scenario in (one for one in SCENARIOS if one.name.startswith(given.only)):
        outcome = run_scenario(
            scenario, tests=int(given.tests * scenario.part), seed=given.seed, factor=given.time_factor
        )
        lines.append(row(scenario, outcome))
        loads.append(outcome.load)
        print(lines[-1], flush=True)
    command = f"python benchmarks/scaling_out.py --seed {given.seed} --time-factor {given.time_factor:g}"
    origin = (
        f"`{command}`, {given.tests:,} tests a row where the row names no other number,"
        f" {time.strftime('%Y-%m-%d')}; the busier of the two processes used"
        f" {max(loads):.0%} of a core at the most."
    )
    print(f"\n{origin}")
    if given.write and not given.only:
        write(DOCS, [*lines, "", origin, "", *parameters()])


def parameters() -> list[str]:
    """Return the model's numbers as lines of a table."""
    model = Model()
    delays = [one for one in fields(Model) if isinstance(getattr(model, one.name), Delay)]
    values = {one.name: getattr(model, one.name) for one in delays} | {"test": TEST}
    rows = [f"| `{name}` | {delay.median:g} s | {delay.p95:g} s |" for name, delay in values.items()]
    return ["| delay | median | 19 in 20 are below |", "|---|---|---|", *rows]


def write(page: Path, lines: list[str]) -> None:
    """Put lines between the marks of a page."""
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.split(END)[1]}")


def run_scenario(scenario: Scenario, *, tests: int, seed: int, factor: float) -> Outcome:
    """Run all tests of a row on its workers."""
    pools = {"tests": vars(scenario.pool)} if scenario.pool else {}
    queue, outcome = deque(range(tests)), Outcome()
    with fleet(seed=seed, time_factor=factor, pools=pools, nodes_hold=scenario.places) as url:
        started, used = time.monotonic(), time.process_time()
        threads = [
            threading.Thread(target=work, args=(url, scenario, number, queue, outcome, seed, factor))
            for number in range(scenario.workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, used = time.monotonic() - started, time.process_time() - used
        with urllib.request.urlopen(f"{url}/fleet") as answer:
            outcome.figures = json.load(answer)
    outcome.took, outcome.load = seconds / factor, max(used, outcome.figures["cpu"]) / seconds
    return outcome


def work(
    url: str, scenario: Scenario, number: int, queue: deque[int], outcome: Outcome, seed: int, factor: float
) -> None:
    """Act as one worker of xdist: take a test, get a sandbox, use it, delete it."""
    image, extensions = (None, {POOL_EXTENSION: "tests"}) if scenario.pool else ("python:3.12-slim", {})
    opts = SandboxOpts(image=image, resource_limits={}, extensions=extensions)
    with Client(url, API_KEY) as client:
        tags = RunTags("benchmark", f"gw{number}")
        lifecycle = Lifecycle(client, tags=tags, ready_timeout=scenario.ready_timeout * factor)
        while queue:
            try:
                test = queue.popleft()
            except IndexError:
                break
            seconds, started = scenario.test.draw(seed, "test", test), time.monotonic()
            try:
                with Sandbox.launch(lifecycle, opts, test=f"test_{test}", command_timeout=None) as sandbox:
                    outcome.readies.append((time.monotonic() - started) / factor)
                    sandbox.run(f"sleep {seconds:.3f}", check=True)
            except OpenSandboxError as exc:
                outcome.failed.append(str(exc))
        lifecycle.close()


@contextmanager
def fleet(**model: Any) -> Iterator[str]:
    """Run a simulated cluster in a process of its own."""
    command = [sys.executable, "-m", "tests.fleet", json.dumps(model)]
    # Leaving the block closes its standard input, which ends it.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()


def row(scenario: Scenario, outcome: Outcome) -> str:
    """Return one row of the table."""
    readies = sorted(outcome.readies)
    cells = [
        scenario.name,
        scenario.workers,
        f"{outcome.took:.0f} s",
        f"{len(readies) / outcome.took:.1f}",
        f"{statistics.median(readies):.1f} s",
        f"{readies[int(len(readies) * 0.95)]:.1f} s",
        f"{readies[-1]:.1f} s",
        outcome.figures.get("429 POOL_CAPACITY_EXHAUSTED", 0),
        outcome.figures.get("504 POD_READY_TIMEOUT", 0),
        len(outcome.failed),
        outcome.figures["alive"],
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
