"""The agent of one sandbox, which is given nothing to do before it is known to be that sandbox's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.command_run import MAX_STREAM_BYTES, Callback
from pytest_opensandbox.sandbox.capture_script import Invocation
from pytest_opensandbox.sandbox.exact_output import run_exact, run_live
from pytest_opensandbox.sandbox.ownership import may_be_shared
from pytest_opensandbox.sandbox.transfer import Transfer
from pytest_opensandbox.sandbox.whereabouts import AgentAddress
from pytest_opensandbox.transport.endpoints import Endpoint

T = TypeVar("T")

_COPY_SECONDS = 600.0
"""Time limit of a command that is part of a copy: a sandbox may make it wait for ever, by a FIFO for example."""


class Agent:
    """Runs commands in one sandbox, and copies in and out.

    Args:
        client: talks to the agent.
        whereabouts: where the agent is.
    """

    def __init__(self, client: Client, whereabouts: AgentAddress) -> None:
        self._client = client
        self._whereabouts = whereabouts
        self._own: Endpoint | None = None
        self._furnished: Endpoint | None = None

    def run(self, invocation: Invocation, on_stdout: Callback | None, on_stderr: Callback | None) -> CommandResult:
        """Run a command: exactly, or with callbacks live; raises as ``run_exact`` and ``run_live``."""

        def perform(endpoint: Endpoint) -> CommandResult:
            if invocation.uid is not None and endpoint != self._furnished:
                # That user may not make a directory in /.
                self._run_quietly(endpoint, ["true"])
            if on_stdout is not None or on_stderr is not None:
                self._check_own(endpoint)
                return self._begin(endpoint, invocation, partial(run_live, on_stdout=on_stdout, on_stderr=on_stderr))
            # The script looks for itself whose agent it is given, unless a file goes before it.
            if invocation.stdin is not None:
                self._check_own(endpoint)
            result = self._begin(endpoint, invocation, run_exact)
            self._own = endpoint
            return result

        return self._whereabouts.reach(perform)

    def copy(self, perform: Callable[[Transfer], T]) -> T:
        """Do what copies files, which may be begun anew at another address.

        Raises:
            SharedAgentError: another sandbox answers.
            OpenSandboxError: what ``perform`` raises.
        """

        def at(endpoint: Endpoint) -> T:
            self._check_own(endpoint)
            return perform(Transfer(self._client, endpoint, partial(self._run_quietly, endpoint)))

        return self._whereabouts.reach(at)

    def _check_own(self, endpoint: Endpoint) -> None:
        """Make sure, once for an address, that the agent is this sandbox's own, where the address leaves that open."""
        if endpoint != self._own and may_be_shared(endpoint):
            self._run_quietly(endpoint, ["true"])
        self._own = endpoint

    def _run_quietly(self, endpoint: Endpoint, command: Sequence[str]) -> CommandResult:
        """Run what a copy needs: as root of the sandbox, outside the story that a report tells."""
        invocation = Invocation(command=command, timeout=_COPY_SECONDS, max_bytes=MAX_STREAM_BYTES)
        return self._begin(endpoint, invocation, run_exact)

    def _begin(
        self, endpoint: Endpoint, invocation: Invocation, run: Callable[[Client, Endpoint, Invocation], CommandResult]
    ) -> CommandResult:
        """Run a command, the first at an address with the directory that every sandbox has."""
        result = run(self._client, endpoint, replace(invocation, makes_workspace=endpoint != self._furnished))
        self._furnished = endpoint
        return result
