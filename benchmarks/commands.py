"""What exact output and forwarded ports cost, beside the plainest way to the same end in the same sandbox.

Run it with `tox run -e bench` on an embedded server, or on another server with
`tox exec -e bench -- python commands.py --url URL --image IMAGE`, with its key in OPEN_SANDBOX_API_KEY. The two ways
take turns, so that a busy machine slows both. The exit status is 1 where a ratio is above its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import requests

from pytest_opensandbox import Client, Sandbox, SandboxOpts
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import RunTags
from pytest_opensandbox.servers.server_process import start_embedded

LINES = 200_000
FILE_BYTES = 100_000_000
PORT = 8123
FILE = "/tmp/served/large"


class Comparison(NamedTuple):
    """Two ways to one end."""

    name: str
    ours: Callable[[], object]
    plain: Callable[[], object]
    bar: float
    """The highest ratio of their times that is fine."""
    rounds: int


def main() -> int:
    """Measure, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server that runs (default: an embedded one is started)")
    parser.add_argument("--image", default="host", help="of the sandbox, with a shell and python3 (default: host)")
    parser.add_argument("--rounds", type=int, default=50, help="how often a short command is measured (default: 50)")
    options = parser.parse_args()
    print(f"{'':38}{'ours':>12}{'plain':>12}{'ratio':>8}{'bar':>6}")
    with ExitStack() as stack:
        url, key = options.url, os.environ.get("OPEN_SANDBOX_API_KEY", "")
        if url is None:
            server = stack.enter_context(start_embedded())
            url, key = server.url, server.api_key
        client = Client(url, key)
        lifecycle = Lifecycle(client, tags=RunTags("benchmark"), lease_seconds=3600)
        stack.callback(lifecycle.close)
        sandbox = stack.enter_context(Sandbox.launch(lifecycle, SandboxOpts(image=options.image), command_timeout=120))
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

    def bare() -> None:
        """Send one POST /command, and read its events to the last one."""
        response = session.post(
            f"{agent.url}/command", json={"command": "true"}, headers=agent.headers, stream=True, timeout=60
        )
        kinds = [json.loads(line.removeprefix(b"data:"))["type"] for line in response.iter_lines() if line.strip()]
        assert kinds[-1] == "execution_complete", kinds

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
    comparison.ours()
    comparison.plain()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(comparison.rounds):
        for kept, call in zip(seconds, (comparison.ours, comparison.plain), strict=True):
            start = time.perf_counter()
            call()
            kept.append(time.perf_counter() - start)
    ours, plain = (statistics.median(kept) for kept in seconds)
    print(
        f"{comparison.name:38}{ours * 1000:>9.1f} ms{plain * 1000:>9.1f} ms{ours / plain:>8.2f}{comparison.bar:>6.1f}",
        flush=True,
    )
    return ours / plain <= comparison.bar


if __name__ == "__main__":
    sys.exit(main())
