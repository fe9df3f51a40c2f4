"""The agent of one sandbox, which is given nothing to do before it is known to be that sandbox's own."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_opensandbox.capture import run_exact, run_live
from pytest_opensandbox.client import Client
from pytest_opensandbox.commands import MAX_STREAM_BYTES
from pytest_opensandbox.invocations import Invocation
from pytest_opensandbox.models import Endpoint
from pytest_opensandbox.ownership import may_be_shared
from pytest_opensandbox.results import CommandResult
from pytest_opensandbox.streams import Callback

_COPY_SECONDS = 600.0
"""Time limit of a command that is part of a copy: a sandbox may make it wait for ever, by a FIFO for example."""


class Agent:
    """Runs commands in one sandbox.

    Args:
        client: talks to the agent.
        endpoint: the agent.
    """

    def __init__(self, client: Client, endpoint: Endpoint) -> None:
        self._client = client
        self._endpoint = endpoint
        self._is_own = not may_be_shared(endpoint)

    def run(self, invocation: Invocation, on_stdout: Callback | None, on_stderr: Callback | None) -> CommandResult:
        """Run a command: exactly, or with callbacks live; raises as ``run_exact`` and ``run_live``."""
        if on_stdout is not None or on_stderr is not None:
            self.check_own()
            return run_live(self._client, self._endpoint, invocation, on_stdout=on_stdout, on_stderr=on_stderr)
        # The script looks for itself whose agent it is given, unless a file goes before it.
        if invocation.stdin is not None:
            self.check_own()
        result = run_exact(self._client, self._endpoint, invocation)
        self._is_own = True
        return result

    def run_quietly(self, command: Sequence[str]) -> CommandResult:
        """Run what a copy needs: as root of the sandbox, outside the story that a report tells."""
        invocation = Invocation(command=command, timeout=_COPY_SECONDS, max_bytes=MAX_STREAM_BYTES)
        return run_exact(self._client, self._endpoint, invocation)

    def check_own(self) -> None:
        """Make sure, once, that the agent is this sandbox's own, where its address leaves that open.

        Raises:
            SharedAgentError: it is another's.
            TransportError: it does not answer.
        """
        if not self._is_own:
            self.run_quietly(["true"])
            self._is_own = True
