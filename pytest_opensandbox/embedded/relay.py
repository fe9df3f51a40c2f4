"""A loopback port of the host for each sandbox, joined byte for byte with the agent's socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from pytest_opensandbox.embedded.agent_socket import AgentSocket

_CHUNK_BYTES = 256 * 1024
_BACKLOG = 256


class Relay:
    """Accepts on a loopback port and joins each connection with a new one to the agent; lives in the background loop.

    Attributes:
        port: the loopback port.
    """

    def __init__(self, agent: AgentSocket) -> None:
        self._agent = agent
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.port: int = self._listener.getsockname()[1]

    def start(self) -> None:
        """Begin to accept, unless the sandbox has ended already; call it in the loop."""
        if not self._is_closed:
            self._keep(asyncio.get_running_loop().create_task(self._accept()))

    def close(self) -> None:
        """Drop the port and every connection; call it in the loop."""
        self._is_closed = True
        if not self._tasks:
            self._listener.close()
        for task in self._tasks:  # each closes its own sockets
            task.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done: the loop itself keeps only a weak reference."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            while True:
                try:
                    client, _ = await loop.sock_accept(self._listener)
                except OSError:  # out of descriptors, or the client has gone: the next one may fare better
                    await asyncio.sleep(0.05)
                    continue
                self._keep(loop.create_task(self._join(client)))

    async def _join(self, client: socket.socket) -> None:
        """Copy both directions until both have ended."""
        with client, contextlib.suppress(OSError), self._agent.connect() as agent:
            agent.setblocking(False)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            directions = [asyncio.ensure_future(_copy(client, agent)), asyncio.ensure_future(_copy(agent, client))]
            try:
                await asyncio.gather(*directions)
            finally:
                # A socket that the loop still watches must not be closed: its number may belong to another one next.
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy one direction to its end, and pass that end on; a side that has gone is an end as well."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _CHUNK_BYTES):
            await loop.sock_sendall(target, data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
