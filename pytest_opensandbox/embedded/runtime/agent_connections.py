"""Connections to the agent of a sandbox: its socket, and a loopback port of the host that leads there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
from pathlib import Path

_AGENT_BACKLOG = 1024

EXECD_PORT = 44772
TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name, not a token
MAX_UNAUTHENTICATED = 64
"""Limit of connections to one sandbox that have not shown its secret; a further one closes the oldest."""

_HEAD_SECONDS = 10
_HEAD_BYTES = 65_536
_DRAIN_SECONDS = 1
_CHUNK_BYTES = 256 * 1024
_BACKLOG = 256
_TOKEN_CHARACTERS = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_METHOD = re.compile(rb"%s{1,20}( .*)?" % _TOKEN_CHARACTERS, re.DOTALL)
_REQUEST_LINE = re.compile(rb"%s{1,20} \S+ HTTP/1\.[01]\r\n" % _TOKEN_CHARACTERS)
_ONLY_HTTP = (
    b"Only HTTP/1 reaches a port of a sandbox from outside: for another protocol, run the client in the sandbox.\n"
)
_UNAUTHORIZED = json.dumps({"error": f"Unauthorized: invalid or missing header {TOKEN_HEADER}"}).encode()


class AgentSocket:
    """A listening unix socket without a name.

    It is bound in the server's private directory and its name removed at once. What is left is a descriptor of the
    bound file, through which only this process can connect, so no path exists that a sandbox could see or redirect,
    and a server that is killed leaves nothing behind.

    Attributes:
        listener: for the agent to inherit; close it when the agent has it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Through the descriptor: a unix address has at most 107 bytes, and the path of the directory may have more.
            self.listener.bind(f"/proc/self/fd/{parent}/{name}")
            self._file = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=parent)
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)
        self.listener.listen(_AGENT_BACKLOG)
        self._lock = threading.Lock()

    def connect(self, timeout: float | None = 0) -> socket.socket:
        """Return a new connection to the agent; it waits in the queue until the agent accepts.

        Args:
            timeout: seconds that each operation on the connection may take; 0 for one that does not block.

        Raises:
            OSError: the agent is gone, or its queue is full.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            with self._lock:  # once closed, the number may stand for another sandbox's socket
                connection.connect(f"/proc/self/fd/{self._file}")
        except BaseException:
            connection.close()
            raise
        connection.settimeout(timeout)
        return connection

    def close(self) -> None:
        """Close the socket; no new connection is possible then."""
        self.listener.close()
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1


class Relay:
    """Accepts on a loopback port and joins connections with new ones to the agent; lives in the background loop.

    Any user of this machine can connect. The relay joins a connection to the agent once the head of its first request
    has the sandbox's secret, in the path or in a header. The agent checks each request again.

    Args:
        agent: the agent's socket.
        token: the sandbox's secret.

    Attributes:
        port: the loopback port.
    """

    def __init__(self, agent: AgentSocket, token: str) -> None:
        self._agent = agent
        self._token = token.encode()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unauthenticated: dict[socket.socket, asyncio.Task[None]] = {}
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
        """Keep a task until it is done: the loop itself has only a weak reference."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            while True:
                try:
                    client, _ = await loop.sock_accept(self._listener)
                except OSError:  # out of descriptors, or the client has gone
                    await asyncio.sleep(0.05)
                    continue
                if len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
                    self._unauthenticated.pop(next(iter(self._unauthenticated))).cancel()
                task = self._unauthenticated[client] = loop.create_task(self._serve(client))
                self._keep(task)

    async def _serve(self, client: socket.socket) -> None:
        """Join a connection with the agent, or refuse it."""
        with client, contextlib.suppress(OSError):
            try:
                client.setblocking(False)
                head = await _read_head(client)
                refusal = _refusal(head, self._token)
                if refusal:
                    await _refuse(client, refusal)
            finally:
                self._unauthenticated.pop(client, None)
            if not refusal:
                await self._join(client, head)

    async def _join(self, client: socket.socket, head: bytes) -> None:
        """Copy both directions until both have ended."""
        with self._agent.connect() as agent:
            agent.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_sendall(agent, head)
            directions = [asyncio.ensure_future(_copy(client, agent)), asyncio.ensure_future(_copy(agent, client))]
            try:
                await asyncio.gather(*directions)
            finally:
                # A socket that the loop still watches must not be closed: its number may belong to another one next.
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)


async def _read_head(client: socket.socket) -> bytes:
    """Return the first bytes of a client: a request's head and perhaps more, or less if it is invalid or too slow."""
    loop = asyncio.get_running_loop()
    head = b""
    with contextlib.suppress(asyncio.TimeoutError):
        deadline = loop.time() + _HEAD_SECONDS
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES and _may_be_http(head):
            data = await asyncio.wait_for(loop.sock_recv(client, _HEAD_BYTES), deadline - loop.time())
            if not data:
                break
            head += data
    return head


def _may_be_http(head: bytes) -> bool:
    """Say whether bytes can begin a request."""
    line, end, _ = head.partition(b"\r\n")
    if end:
        return _REQUEST_LINE.fullmatch(line + end) is not None
    return b"\n" not in line and (not line or _METHOD.fullmatch(line) is not None)


def _refusal(head: bytes, token: bytes) -> bytes:
    """Return the response to a head without the secret, b"" for one with it."""
    if not _may_be_http(head):
        return _answer("400 Bad Request", "text/plain; charset=utf-8", _ONLY_HTTP)
    if b"\r\n\r\n" not in head:
        status = "431 Request Header Fields Too Large" if len(head) >= _HEAD_BYTES else "408 Request Timeout"
        return _answer(status, "text/plain; charset=utf-8", _ONLY_HTTP)
    if token not in head.partition(b"\r\n\r\n")[0]:  # the agent checks where the secret is
        body = b"" if head.startswith(b"HEAD ") else _UNAUTHORIZED
        return _answer("401 Unauthorized", "application/json; charset=utf-8", body)
    return b""


def _answer(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + body


async def _refuse(client: socket.socket, answer: bytes) -> None:
    """Send a response and close, but first read what the client sends: unread bytes would reset the connection."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(loop.sock_sendall(client, answer), _DRAIN_SECONDS)
        client.shutdown(socket.SHUT_WR)
        deadline = loop.time() + _DRAIN_SECONDS
        while await asyncio.wait_for(loop.sock_recv(client, _CHUNK_BYTES), deadline - loop.time()):
            pass


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy one direction to its end, and pass the end on; a broken connection is an end as well."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _CHUNK_BYTES):
            await loop.sock_sendall(target, data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
