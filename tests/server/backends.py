"""Runs the tests in every world that needs a Docker engine: ``python worlds.py [arguments for pytest]``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import docker  # noqa: E402 - an extra, and the checkout is found only now

from tests.server.engine import EXECD_IMAGE, IMAGE, running_engine, why_none  # noqa: E402
from tests.server.images import Images, images  # noqa: E402
from tests.server.inventory import inventory  # noqa: E402
from tests.server.test_nothing_is_left import BEFORE  # noqa: E402

AGNOSTIC = (
    "tests/sandbox/test_exact_output.py",
    "tests/plugin/test_fixtures.py",
    "tests/sandbox/test_lifecycle.py",
    "tests/sandbox/test_sandbox.py",
    "tests/sandbox/test_snapshots.py",
    "tests/cleanup/test_sweep.py",
    "tests/sandbox/test_transfer.py",
    "tests/acceptance",
)
# Takes both ways to a sandbox by itself.
BOTH_WAYS = "tests/client/test_official_sdk.py"
# How a run ends takes minutes here, and has nothing to do with the way to its sandboxes: the endings in which the least
# of ours can run, with workers, in one of the worlds. `tox run -e reliability` has all of them.
WORST_LEAKS = ("-k", "not test_nothing_is_left or (not without and (sig or exit or kind))")
NO_LEAKS = (f"--ignore={ROOT / 'tests/acceptance/test_leaks.py'}",)
# By file: the runs of one test's variants have the same project, by which sandboxes on a shared engine are told apart.
# More than there are processors, because most of the time is waiting for the engine.
WORKERS = ("-n4", "--dist=loadfile")
LAST = str(ROOT / "tests/server/test_nothing_is_left.py")


def main(arguments: list[str]) -> int:
    """Run all worlds on one engine; return 0 where all of them are fine."""
    why = why_none()
    if why:
        print(f"SKIPPED: {why}")
        return 1
    with running_engine() as host, tempfile.TemporaryDirectory() as directory:
        before = Path(directory) / "before.json"
        with closing(docker.DockerClient(base_url=host)) as client:
            before.write_text(json.dumps(inventory(client)))
        environment = {**os.environ, "DOCKER_HOST": host}
        with images(host) as made:
            named = {IMAGE: made.sandbox, EXECD_IMAGE: made.execd}
            failed = [
                title
                for title, options in worlds(made).items()
                if run(title, [*options, *arguments], environment | named)
            ]
        if run("what is left", [LAST], environment | {BEFORE: str(before)}):
            failed.append("what is left")
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'every world is fine'}")
    return 1 if failed else 0


def worlds(made: Images) -> dict[str, list[str]]:
    """Return pytest's arguments for each world."""
    suites = [str(ROOT / path) for path in AGNOSTIC]
    options = [*WORKERS, "--opensandbox-url=docker"]
    options += [f"--opensandbox-image={made.sandbox}", f"--opensandbox-execd-image={made.execd}"]
    return {
        "docker, direct": [str(ROOT / "tests/server"), *suites, str(ROOT / BOTH_WAYS), *options, *WORST_LEAKS],
        "docker, through the server's proxy": [*suites, *options, "--opensandbox-server-proxy", *NO_LEAKS],
    }


def run(title: str, arguments: list[str], environment: dict[str, str]) -> int:
    """Run pytest once; return its exit status."""
    print(f"\n##### {title} #####", flush=True)
    begun = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        f"--rootdir={ROOT}",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-q",
        *arguments,
    ]
    status = subprocess.run(command, env=environment, check=False).returncode
    print(f"##### {title}: status {status} after {time.monotonic() - begun:.0f} s #####", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
