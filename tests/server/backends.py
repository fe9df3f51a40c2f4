"""Runs the tests on every backend that needs a Docker engine: ``python backends.py [arguments for pytest]``."""

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

from tests.server.engine import EXECD_IMAGE, IMAGE, missing_requirement, running_engine  # noqa: E402
from tests.server.images import Images, images  # noqa: E402
from tests.server.inventory import inventory  # noqa: E402
from tests.server.test_nothing_is_left import BEFORE  # noqa: E402

SUITES_OF_EVERY_BACKEND = (
    "tests/sandbox/test_exact_output.py",
    "tests/sandbox/test_commands_of_all_kinds.py",
    "tests/sandbox/test_processes.py",
    "tests/sandbox/test_forwarding.py",
    "tests/plugin/test_fixtures.py",
    "tests/sandbox/test_lifecycle.py",
    "tests/sandbox/test_sandbox.py",
    "tests/sandbox/test_snapshots.py",
    "tests/cleanup/test_sandbox_target.py",
    "tests/sandbox/test_transfer.py",
    "tests/acceptance",
)
# Tests the direct and the proxied way to a sandbox by itself.
BOTH_WAYS = "tests/client/test_official_sdk.py"
# How a run ends does not depend on the way to its sandboxes: one of the backends has these tests.
NO_LEAKS = (f"--ignore={ROOT / 'tests/acceptance/test_leaks.py'}",)
# By file: the runs of one test's variants have the same project, which distinguishes sandboxes on a shared engine.
# More than there are processors, because most of the time is waiting for the engine.
WORKERS = ("-n4", "--dist=loadfile")
LAST = str(ROOT / "tests/server/test_nothing_is_left.py")


def main(arguments: list[str]) -> int:
    """Test all backends on one engine; return 0 where no test fails."""
    why = missing_requirement()
    if why:
        print(f"SKIPPED: {why}")
        return 1
    with running_engine() as host, tempfile.TemporaryDirectory() as directory:
        before = Path(directory) / "before.json"
        with closing(docker.DockerClient(base_url=host)) as client:
            before.write_text(json.dumps(inventory(client)))
        environment = {**os.environ, "DOCKER_HOST": host}
        with images(host) as built:
            named = {IMAGE: built.sandbox, EXECD_IMAGE: built.execd}
            failed = [
                title
                for title, options in backends(built).items()
                if run(title, [*options, *arguments], environment | named)
            ]
        if run("what is left", [LAST], environment | {BEFORE: str(before)}):
            failed.append("what is left")
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'every backend is fine'}")
    return 1 if failed else 0


def backends(built: Images) -> dict[str, list[str]]:
    """Return pytest's arguments for each backend."""
    suites = [str(ROOT / path) for path in SUITES_OF_EVERY_BACKEND]
    options = [*WORKERS, "--opensandbox-url=docker"]
    options += [f"--opensandbox-image={built.sandbox}", f"--opensandbox-execd-image={built.execd}"]
    return {
        "docker, direct": [str(ROOT / "tests/server"), *suites, str(ROOT / BOTH_WAYS), *options],
        "docker, through the server's proxy": [*suites, *options, "--opensandbox-server-proxy", *NO_LEAKS],
    }


def run(title: str, arguments: list[str], environment: dict[str, str]) -> int:
    """Run pytest once; return its exit status."""
    print(f"\n##### {title} #####", flush=True)
    started = time.monotonic()
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
    print(f"##### {title}: status {status} after {time.monotonic() - started:.0f} s #####", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
