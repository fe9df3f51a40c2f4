"""Measures what docs/reliability.md shows and writes it there: ``python reliability.py [arguments for pytest]``."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.acceptance.endings import TABLE as LEAKS  # noqa: E402 - the checkout is found only now
from tests.faults.test_seeded_cases import TABLE as FAULTS  # noqa: E402
from tests.figures import DIRECTORY, PAGE  # noqa: E402
from tests.server.backends import run  # noqa: E402
from tests.server.engine import missing_requirement, running_engine  # noqa: E402
from tests.server.images import images  # noqa: E402

LEAK_TESTS = str(ROOT / "tests/acceptance/test_leaks.py")
FAULT_TESTS = str(ROOT / "tests/faults/test_seeded_cases.py")
WORKERS = "-n2"


def main(arguments: list[str]) -> int:
    """Measure on every backend that is available; the page keeps its figures of the others."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, DIRECTORY: directory}
        failed = run("embedded", [LEAK_TESTS, FAULT_TESTS, WORKERS, *arguments], environment)
        if why := missing_requirement():
            print(f"\nnot measured on Docker: {why}")
        else:
            failed |= run_on_docker(arguments, environment)
        for table in (LEAKS, FAULTS):
            table.write(table.recorded(Path(directory)))
    print(f"\nwritten: {PAGE}")
    return failed


def run_on_docker(arguments: list[str], environment: dict[str, str]) -> int:
    """Run the leaks on a real server."""
    with ExitStack() as stack:
        host = stack.enter_context(running_engine())
        made = stack.enter_context(images(host))
        options = [f"--opensandbox-image={made.sandbox}", f"--opensandbox-execd-image={made.execd}"]
        options += ["--opensandbox-url=docker", WORKERS, *arguments]
        return run("docker", [LEAK_TESTS, *options], environment | {"DOCKER_HOST": host})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
