"""A proxy between client and server that passes requests on, and spoils those that a test chooses."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

HOLD_SECONDS = 30.0
"""Longest time for which anything is held back; a test that is not broken never gets there."""
HEAD_END = b"\r\n\r\n"

_RESET = struct.pack("ii", 1, 0)
_READ_BYTES = 65_536
_TICK_SECONDS = 0.02


class Exchange:
    """One request on its way: what a fault can do with it and with its answer.

    Args:
        proxy: whose it is.
        client: the connection that the request came by.
        request: its bytes, head and body.
    """

    def __init__(self, proxy: FaultyProxy, client: socket.socket, request: bytes) -> None:
        self.request = request
        """The request's bytes."""
        line = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        self.method, self.target = line[0], line[1]
        self.rng = proxy.rng
        """Makes the same choices for the same seed."""
        self._proxy = proxy
        self._client = client

    def ask(self) -> Iterator[bytes]:
        """Pass the request on and yield the answer in pieces: its head, then each chunk, or what came at once."""
        with socket.create_connection(self._proxy.upstream, timeout=HOLD_SECONDS) as server:
            self._proxy.passed_on.append(f"{self.method} {self.target}")
            server.sendall(self.request.replace(*self._proxy.renamed))
            yield from _answer(_Reader(server), self.method)

    def answer(self) -> bytes:
        """Pass the request on and return the whole answer."""
        return b"".join(self.ask())

    def pass_part(self, size: int) -> None:
        """Pass on the beginning of the request, and hang up on the server."""
        with socket.create_connection(self._proxy.upstream, timeout=HOLD_SECONDS) as server:
            server.sendall(self.request[:size])

    def send(self, data: bytes) -> None:
        """Send to the client."""
        self._client.sendall(data)

    def reset(self) -> bool:
        """Cut the connection so that the client sees a reset."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return False

    def hold(self, seconds: float = HOLD_SECONDS) -> bool:
        """Wait, until the proxy is healed or the client hangs up at the latest; return whether the client is there."""
        end = time.monotonic() + seconds
        self._client.settimeout(_TICK_SECONDS)
        try:
            while time.monotonic() < end and not self._proxy.healed.is_set():
                with suppress(TimeoutError):
                    if not self._client.recv(1, socket.MSG_PEEK):
                        return False
                    self._proxy.healed.wait(_TICK_SECONDS)
            self._client.settimeout(HOLD_SECONDS)
        except OSError:
            return False
        return True


Fault = Callable[[Exchange], bool]
"""Answers one request in its own way; returns whether the connection stays open."""


def well(exchange: Exchange) -> bool:
    """Pass on, piece by piece."""
    for piece in exchange.ask():
        exchange.send(piece)
    return True


@dataclass
class Plan:
    """Which requests meet the fault."""

    fault: Fault
    """What happens to them."""
    skip: int = 0
    """How many requests pass before."""
    times: int = 1
    """How many meet it."""
    matching: str = ""
    """Expression that ``METHOD target`` must match, or the request is not counted."""
    met: int = field(default=0, init=False)
    """How many have met it so far."""

    def meets(self, request: str) -> bool:
        """Return whether the next request meets the fault."""
        if self.met >= self.times or not re.search(self.matching, request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.met += 1
        return True


class FaultyProxy:
    """Listens on a loopback port; as a context manager it ends with its block.

    Args:
        url: the server behind it.
        seed: of the choices that faults make.
    """

    def __init__(self, url: str, *, seed: int = 0) -> None:
        self.upstream = _address(url)
        """Where requests go."""
        self.renamed: tuple[bytes, bytes] = (b"", b"")
        """What stands in requests, and what the server is given in its place."""
        self.rng = random.Random(seed)
        """Makes the choices."""
        self.seen: list[str] = []
        """``METHOD target`` of all requests, in order."""
        self.passed_on: list[str] = []
        """Those that the server was given."""
        self.healed = threading.Event()
        """Set when nothing goes wrong any more."""
        self._plans: tuple[Plan, ...] = ()
        self._lock = threading.Lock()
        self._busy = threading.Condition()
        self._exchanges = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port = int(self._listener.getsockname()[1])
        self._accept()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def spoil(self, *plans: Plan) -> None:
        """Let requests meet faults from now on; of several plans the first that fits counts."""
        self.healed.clear()
        self.seen.clear()
        self.passed_on.clear()
        self._plans = plans

    def heal(self) -> None:
        """Let nothing go wrong any more, and wait until what is under way has ended."""
        self._plans = ()
        self.healed.set()
        if self._listener.fileno() < 0:
            self.listen()
        with self._busy:
            self._busy.wait_for(lambda: self._exchanges == 0, timeout=HOLD_SECONDS)

    def refuse(self) -> None:
        """Close the port, and the connections that are open."""
        listener = self._listener
        # A thread that waits in accept keeps the port open until it is woken.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self._thread.join(HOLD_SECONDS)
        self.hang_up()

    def listen(self) -> None:
        """Open the port again."""
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._accept()

    def move(self, url: str, *, keys: tuple[str, str]) -> None:
        """Pass requests on to another server from now on, which has another key.

        Args:
            url: the server.
            keys: the key that clients know, and its own.
        """
        self.upstream = _address(url)
        self.renamed = (keys[0].encode(), keys[1].encode())

    def hang_up(self) -> None:
        """Close the connections that are open."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End."""
        self.healed.set()
        self.refuse()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(HOLD_SECONDS * 4)
        with self._lock:
            self._open.add(client)
        try:
            reader = _Reader(client)
            # The client, or the server, may hang up whenever it likes.
            with suppress(OSError, EOFError):
                while request := _request(reader):
                    if not self._exchange(client, request):
                        break
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()

    def _exchange(self, client: socket.socket, request: bytes) -> bool:
        exchange = Exchange(self, client, request)
        with self._busy:
            self._exchanges += 1
        try:
            with self._lock:
                self.seen.append(f"{exchange.method} {exchange.target}")
                fault = next((plan.fault for plan in self._plans if plan.meets(self.seen[-1])), well)
            return fault(exchange)
        finally:
            with self._busy:
                self._exchanges -= 1
                self._busy.notify_all()


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


class _Reader:
    """Reads a connection by what stands in it."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._held = b""

    def until(self, end: bytes) -> bytes:
        """Return all up to and with ``end``, or b"" where nothing more comes."""
        while end not in self._held:
            if not self._more():
                if self._held:
                    raise EOFError
                return b""
        head, _, self._held = self._held.partition(end)
        return head + end

    def exactly(self, size: int) -> bytes:
        """Return so many bytes."""
        while len(self._held) < size:
            if not self._more():
                raise EOFError
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def some(self, most: int) -> bytes:
        """Return what is there, b"" at the end."""
        if not self._held:
            self._more()
        taken, self._held = self._held[:most], self._held[most:]
        return taken

    def _more(self) -> bool:
        data = self._source.recv(_READ_BYTES)
        self._held += data
        return bool(data)


def header(head: bytes, name: str) -> str:
    """Return a header's value, or ""."""
    found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*([^\r\n]*)", head)
    return found[1].decode("latin-1").strip() if found else ""


def _request(reader: _Reader) -> bytes:
    head = reader.until(HEAD_END)
    return head + reader.exactly(int(header(head, "Content-Length") or 0)) if head else b""


def _answer(reader: _Reader, method: str) -> Iterator[bytes]:
    head = reader.until(HEAD_END)
    yield head
    status, length = int(head.split(b" ", 2)[1]), header(head, "Content-Length")
    if method == "HEAD" or status in (204, 304):
        return
    if header(head, "Transfer-Encoding").lower() == "chunked":
        yield from _chunks(reader)
        return
    left = int(length) if length else 1 << 62
    while left > 0 and (piece := reader.some(left)):
        left -= len(piece)
        yield piece


def _chunks(reader: _Reader) -> Iterator[bytes]:
    while line := reader.until(b"\r\n"):
        size = int(line.split(b";")[0], 16)
        yield line + (reader.exactly(size + len(b"\r\n")) if size else reader.until(b"\r\n"))
        if not size:
            return
    # The server broke off, and so does what it is passed on to.
    raise EOFError
