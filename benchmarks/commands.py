"""What exact output and forwarded ports cost, beside the plainest way to the same end in the same sandbox.

Run it with `tox run -e bench` on an embedded server, or on a Docker engine with
`tox exec -e bench -- python commands.py --docker --image IMAGE --execd-image IMAGE`. The two ways take turns, so that a
busy machine slows both. The exit status is 1 where a ratio is above its bar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import requests

from pytest_opensandbox import Client, Sandbox, SandboxOpts
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import TAG_RUN, RunTags
from pytest_opensandbox.servers.server_process import start_docker, start_embedded

LINES = 200_000
FILE_BYTES = 100_000_000
PORT = 8123
RUN = "benchmark"
# With the default of half a core the engine stops a sandbox for 40 ms at a time.
RESOURCES = {"cpu": "2", "memory": "1Gi"}
FILE = "/tmp/served/large"


class Comparison(NamedTuple):
    """Two ways to one end."""

    name: str
    ours: Callable[[], object]
    plain: Callable[[], object]
    """May return what is to be called, untimed, before the next turn."""
    bar: float
    """The highest ratio of their times that is fine."""
    rounds: int


def main() -> int:
    """Measure, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docker", action="store_true", help="start opensandbox-server on this machine's engine")
    parser.add_argument("--execd-image", default="", help="with --docker: the image with the agent")
    parser.add_argument("--image", default="host", help="of the sandbox, with a shell and python3 (default: host)")
    parser.add_argument("--rounds", type=int, default=50, help="how often a short command is measured (default: 50)")
    options = parser.parse_args()
    print(f"{'':38}{'ours':>12}{'plain':>12}{'ratio':>8}{'bar':>6}")
    with ExitStack() as stack:
        server = stack.enter_context(
            start_docker(label=f"{TAG_RUN}={RUN}", execd_image=options.execd_image)
            if options.docker
            else start_embedded()
        )
        client = Client(server.url, server.api_key)
        lifecycle = Lifecycle(client, tags=RunTags(RUN), lease_seconds=3600)
        stack.callback(lifecycle.close)
        sandbox = stack.enter_context(
            Sandbox.launch(lifecycle, SandboxOpts(image=options.image, resource_limits=RESOURCES), command_timeout=120)
        )
        comparisons = [
            *commands(client, sandbox, options.rounds),
            stack.enter_context(downloads(sandbox, max(3, options.rounds // 10))),
        ]
        fine = [show(comparison) for comparison in comparisons]
    return 0 if all(fine) else 1


def commands(client: Client, sandbox: Sandbox, rounds: int) -> list[Comparison]:
    """Return the comparisons of commands."""
    agent = client.discover_execd(sandbox.id)
    session = requests.Session()

    def bare() -> Callable[[], object]:
        """Send one POST /command, and read its events to the one that ends the command."""
        response = session.post(
            f"{agent.url}/command", json={"command": "true"}, headers=agent.headers, stream=True, timeout=60
        )
        for line in response.iter_lines(chunk_size=1):
            if line and json.loads(line.removeprefix(b"data:"))["type"] == "execution_complete":
                return lambda: response.content
        raise AssertionError("the command did not complete")

    def by_file() -> None:
        client.run_command(agent, f"seq {LINES} > /tmp/lines")
        with client.download_file(agent, "/tmp/lines") as download:
            assert download.read().endswith(b"%d\n" % LINES)

    def by_run() -> None:
        assert sandbox.run(f"seq {LINES}").stdout_bytes.endswith(b"%d\n" % LINES)

    return [
        Comparison('run("true") / one POST /command', lambda: sandbox.run("true"), bare, 1.8, rounds),
        Comparison(f"{LINES:,} lines / by a file".replace(",", " "), by_run, by_file, 2.0, max(3, rounds // 5)),
    ]


@contextmanager
def downloads(sandbox: Sandbox, rounds: int) -> Iterator[Comparison]:
    """Yield the comparison of a forwarded port with the endpoint of the same HTTP server."""
    sandbox.run(f"mkdir -p /tmp/served && head -c {FILE_BYTES} /dev/urandom > {FILE}").check()
    command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/tmp/served", str(PORT)]
    with sandbox.start(command):
        sandbox.wait_for_port(PORT)
        endpoint = sandbox.endpoint(PORT)
        with sandbox.forward(PORT) as (host, port):
            yield Comparison(
                "100 MB by forward() / by endpoint()",
                lambda: read(f"http://{host}:{port}/large", {}),
                lambda: read(f"{endpoint.url}/large", endpoint.headers),
                2.0,
                rounds,
            )


def read(url: str, headers: dict[str, str]) -> None:
    """Download the large file, and throw it away."""
    with requests.get(url, headers=headers, stream=True, timeout=120) as response:
        response.raise_for_status()
        size = sum(len(piece) for piece in response.iter_content(1 << 18))
    assert size == FILE_BYTES, size


def show(comparison: Comparison) -> bool:
    """Measure two ways turn by turn, print a row of medians, and return whether the ratio is fine."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + comparison.rounds):
        for kept, call in zip(seconds, (comparison.ours, comparison.plain), strict=True):
            start = time.perf_counter()
            rest = call()
            kept.append(time.perf_counter() - start)
            if callable(rest):
                rest()
    ours, plain = (statistics.median(kept[1:]) for kept in seconds)
    print(
        f"{comparison.name:38}{ours * 1000:>9.1f} ms{plain * 1000:>9.1f} ms{ours / plain:>8.2f}{comparison.bar:>6.1f}",
        flush=True,
    )
    return ours / plain <= comparison.bar


if __name__ == "__main__":
    sys.exit(main())
