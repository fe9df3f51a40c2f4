"""Calls to the agent of one sandbox: changes of its address, the check of its identity, and the history of calls.

Kubernetes may move a sandbox, and with Docker's host network all sandboxes share the first one's agent. So a call
follows the agent to a new address, runs once or not at all, and runs in this sandbox only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.command_run import MAX_STREAM_BYTES
from pytest_opensandbox.client.models import EXECD_PORT
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import CommandLostError, OpenSandboxError, SharedAgentError, TransportError
from pytest_opensandbox.sandbox.diagnosis import diagnose, may_be_gone
from pytest_opensandbox.sandbox.history import (
    History,
    record_copy,
    record_end,
    record_error,
    record_move,
    record_result,
)
from pytest_opensandbox.sandbox.process import Process
from pytest_opensandbox.sandbox.runner import Runner
from pytest_opensandbox.sandbox.runner_protocol import Field, Invocation
from pytest_opensandbox.sandbox.transfer import Transfer
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.failures import lacks_address
from pytest_opensandbox.transport.retry import time_limit

T = TypeVar("T")


class Agent:
    """Runs commands in one sandbox and copies files, wherever its agent is.

    Args:
        client: talks to the server and to the agent.
        endpoint: the agent, as it was found.
        ready_timeout: how long a sandbox that was moved may take to become ready again; seconds.
    """

    def __init__(self, client: Client, endpoint: Endpoint, *, ready_timeout: float) -> None:
        self.endpoint = endpoint
        """The agent, as it was found last."""
        self.history = History()
        """The last commands and copies, oldest first."""
        self.processes: list[Process] = []
        """What was started in it and not waited for, oldest first."""
        self.gone = ""
        """Why the sandbox has ended, once a call failed for that reason; else ""."""
        self._client = client
        self._ready_timeout = ready_timeout
        self._may_have_moved = False
        self._is_own = False
        self._runner = Runner(client, endpoint)

    def run(self, invocation: Invocation) -> CommandResult:
        """Run a command; raises as ``Runner.run``."""
        return self._call(invocation.command, lambda: self._run(invocation))

    def start(self, invocation: Invocation, process: Process) -> None:
        """Start a command, and return when it has begun; raises as ``Runner.run``."""
        self.processes.append(process)
        with self.explaining_failures():
            process.follow(lambda: self._follow(lambda: self._run(invocation)))

    def ask(self, kind: str, fields: Sequence[Field], *, seconds: float) -> int:
        """Have the runner do something else; as ``Runner.ask``."""
        with self.explaining_failures():
            return self._follow(lambda: self._runner.ask(kind, fields, seconds=seconds))

    def copy(self, title: str, perform: Callable[[Transfer], T]) -> T:
        """Copy files; a copy may begin again at another address.

        Args:
            title: says what is copied.
            perform: does it.

        Raises:
            SharedAgentError: another sandbox answers.
            OpenSandboxError: what ``perform`` raises.
        """
        return self._call(title, lambda: perform(self._transfer()), is_copy=True)

    def move(self, endpoint: Endpoint) -> None:
        """Use another address from now on."""
        before, self.endpoint, self._may_have_moved = self.endpoint, endpoint, False
        if before != endpoint:
            self._is_own, self._runner = False, Runner(self._client, endpoint)
            self.history.append(record_move(repr(before), repr(endpoint)))

    @contextmanager
    def explaining_failures(self) -> Iterator[None]:
        """Raise ``SandboxGoneError`` in place of an error that the end of the sandbox has caused."""
        try:
            yield
        except OpenSandboxError as exc:
            if not may_be_gone(exc):
                raise
            gone = diagnose(self._client, self.endpoint)
            if gone is None:
                raise
            self.gone = gone.why
            self.history.append(record_end(gone.why))
            raise gone from exc

    def _call(self, title: str | Sequence[str], perform: Callable[[], T], *, is_copy: bool = False) -> T:
        """Perform a call, add its end to the history, and explain its failure."""
        started = monotonic()
        with self.explaining_failures():
            try:
                result = self._follow(perform)
            except BaseException as exc:
                self.history.append(record_error(title, started, exc, is_copy=is_copy))
                raise
            self.history.append(
                record_result(result, started) if isinstance(result, CommandResult) else record_copy(title, started)
            )
        return result

    def _follow(self, perform: Callable[[], T]) -> T:
        """Perform a call at the agent's address, and once more at a new one if certainly nothing was done at the old.

        Where something may have been done, the call's error is final; the next call asks for the address first.

        Args:
            perform: raises ``TransportError`` with ``unsent`` only where repeating it does no harm.

        Raises:
            OpenSandboxError: what ``perform`` raises.
        """
        if self._may_have_moved:
            self._may_have_moved = False
            self._find_new_address()
        try:
            return perform()
        except (CommandLostError, TransportError, SharedAgentError) as exc:
            # An agent of another sandbox has refused to run anything: Kubernetes may have reused the address.
            self._may_have_moved = not isinstance(exc, SharedAgentError)
            was_done = isinstance(exc, CommandLostError) or (isinstance(exc, TransportError) and not exc.unsent)
            if was_done or not self._find_new_address():
                raise
        self._may_have_moved = False
        return perform()

    def _find_new_address(self) -> bool:
        """Ask for the address once; if it has changed, wait until the agent answers there."""
        try:
            with time_limit(self._client.timeouts.diagnosis_seconds):
                if self._client.discover_execd(self.endpoint.sandbox_id) == self.endpoint:
                    return False
        except OpenSandboxError as exc:
            if not lacks_address(exc):
                return False
        try:
            _, found = self._client.wait_ready_endpoint(self.endpoint.sandbox_id, timeout=self._ready_timeout)
        except OpenSandboxError:
            # The error of the call itself says more.
            return False
        self.move(found)
        return True

    def _run(self, invocation: Invocation) -> CommandResult:
        result = self._runner.run(invocation)
        self._is_own = True
        return result

    def _run_quietly(self, command: Sequence[str]) -> CommandResult:
        """Run a command that a copy needs, as root of the sandbox, and add nothing to the history."""
        # A FIFO in the sandbox, for example, would make it wait without end.
        seconds = self._client.timeouts.copy_seconds
        return self._run(Invocation(command=command, timeout=seconds, max_bytes=MAX_STREAM_BYTES))

    def _transfer(self) -> Transfer:
        self._check_own()
        return Transfer(self._client, self.endpoint, self._run_quietly)

    def _check_own(self) -> None:
        """Check, once for each address, that the agent is this sandbox's own, unless the address shows it."""
        if not self._is_own and may_be_shared(self.endpoint):
            self._run_quietly(["true"])
        self._is_own = True


def may_be_shared(endpoint: Endpoint) -> bool:
    """Return whether several sandboxes may share the agent at an address.

    Docker's bridge network and the embedded server give each sandbox a port of its own, a gateway a header.
    """
    parts = urlsplit(endpoint.url)
    return not endpoint.headers and (parts.port == EXECD_PORT or "/sandboxes/" in parts.path)
