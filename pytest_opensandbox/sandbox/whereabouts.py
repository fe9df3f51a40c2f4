"""Where a sandbox's agent is, which Kubernetes may change; a command meanwhile runs once or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.errors import CommandLostError, OpenSandboxError, SharedAgentError, TransportError
from pytest_opensandbox.transport.deadlines import time_limit
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.refusals import has_no_address

T = TypeVar("T")

ASKING_SECONDS = 5.0
"""How long the server may take to say where an agent is that does not answer."""


class AgentAddress:
    """The address of one sandbox's agent, as far as it is known.

    Args:
        client: asks the server.
        endpoint: the agent, as it was found.
        ready_timeout: how long a sandbox that was moved may take to become ready again; seconds.
        on_move: told the old address and the new one.
    """

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        *,
        ready_timeout: float,
        on_move: Callable[[Endpoint, Endpoint], None],
    ) -> None:
        self.endpoint = endpoint
        """The agent, as it was found last."""
        self._client = client
        self._ready_timeout = ready_timeout
        self._on_move = on_move
        self._is_doubtful = False

    def reach(self, call: Callable[[Endpoint], T]) -> T:
        """Perform a call at the agent's address, and once more at a new one if certainly nothing was done at the old.

        Where something may have been done, the call's error is final; the next call asks for the address first.

        Args:
            call: raises ``TransportError`` with ``unsent`` only where repeating it does no harm.

        Raises:
            OpenSandboxError: what ``call`` raises.
        """
        if self._is_doubtful:
            self._is_doubtful = False
            self._has_moved()
        try:
            return call(self.endpoint)
        except (CommandLostError, TransportError, SharedAgentError) as exc:
            # A shared agent has refused to run anything: an address of the cluster may belong to another by now.
            self._is_doubtful = not isinstance(exc, SharedAgentError)
            was_done = isinstance(exc, CommandLostError) or (isinstance(exc, TransportError) and not exc.unsent)
            if was_done or not self._has_moved():
                raise
        self._is_doubtful = False
        return call(self.endpoint)

    def move(self, endpoint: Endpoint) -> None:
        """Use another address from now on."""
        before, self.endpoint, self._is_doubtful = self.endpoint, endpoint, False
        if before != endpoint:
            self._on_move(before, endpoint)

    def _has_moved(self) -> bool:
        """Ask for the address once; where it is another, wait until the agent answers there."""
        try:
            with time_limit(ASKING_SECONDS):
                if self._client.discover_execd(self.endpoint.sandbox_id) == self.endpoint:
                    return False
        except OpenSandboxError as exc:
            if not has_no_address(exc):
                return False
        try:
            _, found = self._client.wait_ready_endpoint(self.endpoint.sandbox_id, timeout=self._ready_timeout)
        except OpenSandboxError:
            # What is wrong with the call that was to be made says more.
            return False
        self.move(found)
        return True
