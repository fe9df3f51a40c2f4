"""What a case needs: a client behind a faulty proxy, a client that goes past it, and a sandbox."""

from __future__ import annotations

import uuid
from pathlib import Path

from pytest_opensandbox import Client, Endpoint, FileUpload, OpenSandboxError, Sandbox, SandboxOpts
from pytest_opensandbox.cleanup.targets import SandboxTarget
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, ReadySandbox
from pytest_opensandbox.sandbox.tracking import TAG_RUN, RunTags
from pytest_opensandbox.servers.server_process import ServerProcess
from pytest_opensandbox.transport.timeouts import Timeouts
from tests.faults.proxy import FaultyProxy

REQUEST_SECONDS = 0.3
"""Between two bytes of an ordinary answer."""
CREATE_SECONDS = 1.5
"""Between two bytes of the answer to a create."""
LOOKING_SECONDS = 3.0
"""Budget of the look for what a lost create made."""
READY_SECONDS = 3.0
"""Budget of a wait for a sandbox."""
COMMAND_SECONDS = 2.0
"""Time limit of a command."""
SHORT_TIMEOUTS = Timeouts(
    request_seconds=REQUEST_SECONDS,
    create_seconds=CREATE_SECONDS,
    body_seconds=2 * REQUEST_SECONDS,
    first_byte_seconds=REQUEST_SECONDS,
    silence_seconds=REQUEST_SECONDS,
    grace_seconds=REQUEST_SECONDS,
    agent_connect_seconds=REQUEST_SECONDS,
    interrupt_seconds=REQUEST_SECONDS,
    status_seconds=REQUEST_SECONDS,
    transfer_connect_seconds=REQUEST_SECONDS,
    transfer_silence_seconds=REQUEST_SECONDS,
    transfer_seconds=2 * REQUEST_SECONDS,
    first_retry_seconds=0.01,
    longest_retry_seconds=0.05,
    diagnosis_seconds=2 * REQUEST_SECONDS,
    noticing_seconds=REQUEST_SECONDS,
    settling_seconds=REQUEST_SECONDS,
    lost_create_seconds=LOOKING_SECONDS,
    copy_seconds=COMMAND_SECONDS,
)
"""Time limits short enough to be waited for."""

CONTENT = bytes(range(256)) * 40
"""A file that lies in the shared sandbox as ``/tmp/kept/one.bin`` and as ``/tmp/kept/deep/two.bin``."""


class Bench:
    """The clients, the proxy and the sandbox of one worker, for one case after the other.

    Args:
        server: the server that all sandboxes live on.
        timeouts: of the client that goes through the proxy.
    """

    def __init__(self, server: ServerProcess, timeouts: Timeouts = SHORT_TIMEOUTS) -> None:
        self.proxy = FaultyProxy(server.url)
        """Between the two."""
        self.client = Client(self.proxy.url, server.api_key, use_server_proxy=True, timeouts=timeouts)
        """Goes through the proxy, to the server and to the agents."""
        self.truth = Client(server.url, server.api_key)
        """Goes to the server itself."""
        self.scratch = Path()
        """A directory on this machine, empty at the beginning of a case."""
        self.run_id = ""
        """What the sandboxes of the case are tagged with."""
        self._sandbox: Sandbox | None = None

    def begin(self, seed: int, scratch: Path) -> None:
        """Begin a case.

        Args:
            seed: of the choices that the faults make.
            scratch: an empty directory.
        """
        self.proxy.heal()
        self.scratch, self.run_id = scratch, f"faults-{uuid.uuid4().hex}"
        if not self._is_well():
            self._sandbox = self.launch("faults-shared")
            files = [FileUpload(f"/tmp/kept/{name}", CONTENT) for name in ("one.bin", "deep/two.bin")]
            self.truth.upload_files(self.direct, files)
        self._sandbox = self._fresh_handle()
        self.proxy.rng.seed(seed)

    @property
    def sandbox(self) -> Sandbox:
        """A sandbox that the cases of a worker share, as long as it lives."""
        assert self._sandbox is not None
        return self._sandbox

    @property
    def agent(self) -> Endpoint:
        """The agent of the shared sandbox, by way of the proxy."""
        return self.client.discover_execd(self.sandbox.id)

    @property
    def direct(self) -> Endpoint:
        """The agent of the shared sandbox, past the proxy."""
        return self.truth.discover_execd(self.sandbox.id)

    @property
    def opts(self) -> SandboxOpts:
        """What a create of this case asks for."""
        return SandboxOpts(image="host", timeout=300, metadata={TAG_RUN: self.run_id})

    def lifecycle(self, run_id: str = "") -> Lifecycle:
        """Return what creates sandboxes through the proxy, in this case's name."""
        return Lifecycle(
            self.client, tags=RunTags(run_id or self.run_id), lease_seconds=300, ready_timeout=READY_SECONDS
        )

    def launch(self, run_id: str = "") -> Sandbox:
        """Return a sandbox that is ready, and that no thread renews."""
        lifecycle = self.lifecycle(run_id)
        try:
            return Sandbox.launch(lifecycle, self.opts, command_timeout=COMMAND_SECONDS)
        finally:
            lifecycle.close()

    def _fresh_handle(self) -> Sandbox:
        """Return a handle on the shared sandbox that knows nothing of earlier cases, and has found its agent."""
        known = ReadySandbox(self.client.get_sandbox(self.sandbox.id), self.agent, self.sandbox.image)
        handle = Sandbox(self.lifecycle("faults-shared"), known, command_timeout=COMMAND_SECONDS)
        # A busy machine may need longer than the short time limits of the cases.
        for attempt in range(3):
            try:
                handle.run("true")
                break
            except OpenSandboxError:
                if attempt == 2:
                    raise
        return handle

    def alive(self) -> list[str]:
        """Return the sandboxes of this case that live."""
        return [found.id for found in self.truth.list_sandboxes({TAG_RUN: self.run_id})]

    def swept(self) -> list[str]:
        """Do what a run does at its end, and return what lives nevertheless."""
        SandboxTarget(self.client, run_id=self.run_id).sweep()
        return self.alive()

    def shell(self, command: str) -> str:
        """Run a command in the shared sandbox, past the proxy, and return what it wrote."""
        return self.truth.run_command(self.direct, command).stdout

    def counting(self, command: str) -> str:
        """Return a command that notes in the shared sandbox that it was run."""
        return f"echo >>/tmp/{self.run_id}; {command}"

    def executions(self) -> int:
        """Return how often such a command was run in this case."""
        return int(self.shell(f"cat /tmp/{self.run_id} 2>/dev/null | wc -l"))

    def close(self) -> None:
        """Delete the shared sandbox, and end the proxy."""
        self.proxy.heal()
        if self._sandbox is not None:
            self.truth.delete_sandbox(self._sandbox.id)
        self.client.close()
        self.truth.close()
        self.proxy.close()

    def _is_well(self) -> bool:
        try:
            if self._sandbox is not None:
                self.truth.ping(self.direct)
        except OpenSandboxError:
            return False
        return self._sandbox is not None
