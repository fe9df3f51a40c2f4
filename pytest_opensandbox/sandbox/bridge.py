"""The bridge into one sandbox: the runner serves WebSockets inside, and this package opens them."""

from __future__ import annotations

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.errors import SandboxError
from pytest_opensandbox.sandbox.agent import Agent
from pytest_opensandbox.sandbox.process import Process
from pytest_opensandbox.sandbox.runner_protocol import Invocation
from pytest_opensandbox.transport.websocket import WebSocket

_SIGNAL_SECONDS = 5.0
_OUTPUT_BYTES = 65_536


class Bridge(Process):
    """A bridge that runs in a sandbox; ``close`` ends it and its connections.

    Args:
        client: opens its connections.
        agent: starts it.
        inner_port: a port to listen on in the sandbox, 0 for any; None for none.

    Raises:
        SandboxError: the runner cannot run in the sandbox, or the inner port is in use.
        TransportError: the agent does not answer.
    """

    def __init__(self, client: Client, agent: Agent, *, inner_port: int | None = None) -> None:
        super().__init__("a bridge", max_bytes=_OUTPUT_BYTES, send=lambda group, number: _signal(agent, group, number))
        self.inner_port = 0
        """The port in the sandbox whose connections it takes."""
        self._client = client
        self._secret = ""
        self._port = 0
        invocation = Invocation(
            command="a bridge", bridges=True, inner_port=inner_port, observer=self, max_bytes=_OUTPUT_BYTES
        )
        agent.start(invocation, self)
        if not 0 < self._port < 65_536:
            raise SandboxError("the bridge into the sandbox did not begin", sandbox_id=agent.endpoint.sandbox_id)
        # Through the agent, which reaches loopback: a server's own proxy goes to the sandbox's other address.
        self._agent = agent.endpoint

    def open(self, place: str) -> WebSocket:
        """Open a connection.

        Args:
            place: such as ``tcp/5432``.

        Raises:
            ApiError: 502 where no server listens.
            TransportError: the bridge does not answer.
        """
        return self._client.open_websocket(self._agent, f"/proxy/{self._port}/{self._secret}/{place}")

    def on_bridge(self, nonce: str, port: int, inner_port: int) -> None:
        """Take note of where it listens, and of its secret."""
        self._secret, self._port, self.inner_port = nonce, port, inner_port


def _signal(agent: Agent, process_group: int, number: int) -> int:
    return agent.ask("signal", [("j", process_group), ("z", number)], seconds=_SIGNAL_SECONDS)
