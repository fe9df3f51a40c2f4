"""An agent in a process of its own, with the requests that tests send to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests
from tenacity import Retrying, retry_if_not_result, stop_before_delay, wait_fixed

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


class Agent:
    """A running agent.

    Args:
        process: it, with standard error as a pipe.
        url: where it listens.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request; ``path`` is put behind the address."""
        return self.session.request(method, self.url + path, timeout=options.pop("timeout", 30), **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """Send a GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """Send a POST."""
        return self.request("POST", path, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        """Send a DELETE."""
        return self.request("DELETE", path, **options)

    def run(self, command: str, **fields: Any) -> list[dict[str, Any]]:
        """Run a command and return its events without pings."""
        response = self.post("/command", json={"command": command, **fields})
        assert response.status_code == 200, response.text
        return events(response.content)

    def start(self, command: str, **fields: Any) -> str:
        """Start a command in the background and return its id."""
        return str(self.run(command, background=True, **fields)[0]["text"])

    def status(self, identifier: str) -> dict[str, Any]:
        """Return what is known about a command."""
        return dict(self.get(f"/command/status/{identifier}").json())

    @property
    def peak_kib(self) -> int:
        """The most memory that the agent has used so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def running_agent(
    *arguments: str,
    entrypoint: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    fds: Sequence[int] = (),
    under: Sequence[str] = (),
) -> Iterator[Agent]:
    """Run an agent on a free port, under another program where one is given."""
    command = [*under, sys.executable, "-m", "pytest_opensandbox.embedded.agent", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(
        [*command, *(["--", *entrypoint] if entrypoint else [])],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        pass_fds=fds,
    ) as process:
        try:
            assert process.stderr is not None
            agent = Agent(process, "http://" + process.stderr.readline().split()[-1])
            with agent.session:
                yield agent
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream without pings."""
    found = [json.loads(frame) for frame in body.split(b"\n\n") if frame]
    return [event for event in found if event.get("type") != "ping"]


def texts(found: list[dict[str, Any]], kind: str = "stdout") -> list[str]:
    """Return the texts of the events of one type."""
    return [event["text"] for event in found if event["type"] == kind]


def eventually(look: Callable[[], T | None]) -> T:
    """Call ``look`` until it returns something true, for up to 20 seconds, and return that."""
    policy = Retrying(stop=stop_before_delay(20), wait=wait_fixed(0.01), retry=retry_if_not_result(bool))
    found = policy(look)
    assert found is not None
    return found


def exists(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
