"""Small real HTTP servers whose responses come from a test's script or from recorded traffic."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from tests.runner_reports import read_request, report_lines

HOLD_SECONDS = 20.0
"""Longest time for which a server holds an answer back; a test that is not broken never gets there."""


class Gate(Protocol):
    """What holds the rest of a body back: an event, until it is set."""

    def wait(self, timeout: float) -> object:
        """Return when the rest may be sent, or after ``timeout`` seconds."""


Piece = bytes | Gate


@dataclass(frozen=True)
class Pause:
    """Holds the rest of a body back for a while, as it was recorded."""

    seconds: float

    def wait(self, timeout: float) -> object:
        """Return after the pause."""
        return threading.Event().wait(min(self.seconds, timeout))


@dataclass
class Reply:
    """One answer: what is sent, how it is framed, and what goes wrong with it."""

    status: int = 200
    body: bytes | Sequence[Piece] = b""
    """Bytes, or pieces that are sent one by one; a gate among them holds the rest back."""
    headers: dict[str, str] = field(default_factory=dict)
    framing: str = "length"
    """``length``, ``chunked`` or ``close`` (the end of the connection ends the body, as in HTTP/1.0)."""
    drop: str = ""
    """``before`` closes the connection without an answer, ``after`` closes it where the body would end."""
    promised: int | None = None
    """What Content-Length says, where that is not the truth."""

    @property
    def pieces(self) -> list[Piece]:
        """The body in pieces."""
        return [self.body] if isinstance(self.body, bytes) else list(self.body)

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return sum(len(piece) for piece in self.pieces if isinstance(piece, bytes))


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    """Path without the query."""
    query: list[tuple[str, str]]
    headers: Any
    body: bytes
    connection: tuple[str, int]
    """The client's address: the same for requests on one connection."""

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Player(BaseHTTPRequestHandler):
    """Plays the replies of a server's script."""

    protocol_version = "HTTP/1.1"
    script: Server

    def play(self) -> None:
        """Read a request, note it, answer it."""
        parts = urlsplit(self.path)
        query = parse_qsl(parts.query, keep_blank_values=True)
        seen = Seen(self.command, parts.path, query, self.headers, self.read_body(), self.client_address)
        try:
            self.answer(self.script.next_reply(seen))
        except OSError:
            self.close_connection = True
            self.script.gone.set()

    def read_body(self) -> bytes:
        """Return the request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, reply: Reply) -> None:
        """Send one reply, with all that is to go wrong with it."""
        if reply.drop == "before":
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        length = str(reply.length if reply.promised is None else reply.promised)
        framing = {"length": ("Content-Length", length), "chunked": ("Transfer-Encoding", "chunked")}
        for name, value in [*reply.headers.items(), framing.get(reply.framing, ("Connection", "close"))]:
            self.send_header(name, value)
        self.end_headers()
        for piece in reply.pieces:
            self.send_piece(piece, chunked=reply.framing == "chunked")
        if reply.drop == "after":
            self.close_connection = True
        elif reply.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def send_piece(self, piece: Piece, *, chunked: bool) -> None:
        """Send a piece of a body, or wait for its gate."""
        if not isinstance(piece, bytes):
            piece.wait(HOLD_SECONDS)
        elif piece:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


for _method in ("GET", "POST", "DELETE", "PATCH"):
    setattr(Player, f"do_{_method}", Player.play)


class Server:
    """A server on a loopback port that answers the n-th request with the n-th reply.

    Args:
        replies: what it answers, in order; after them it answers 599.
        player: reads requests and sends replies.
        tls: what it speaks https with, None for http.
    """

    def __init__(
        self, replies: Sequence[Reply], player: type[Player] = Player, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.seen: list[Seen] = []
        """The requests, in order."""
        self.replies = list(replies)
        """What it answers, in order."""
        self.gone = threading.Event()
        """Set when a client has closed a connection while its answer was still being sent."""
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Playing", (player,), {"script": self}))
        self._http.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self._http.server_port)

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def run(self) -> None:
        """Serve until stopped."""
        self._http.serve_forever(poll_interval=0.01)

    def stop(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def next_reply(self, seen: Seen) -> Reply:
        """Note a request and return what to answer."""
        with self._lock:
            self.seen.append(seen)
            if len(self.seen) <= len(self.replies):
                return self.replies[len(self.seen) - 1]
        return Reply(599, b"the script is over")


class OneSandboxServer(Server):
    """A lifecycle server with one sandbox, ``s1``, which it is itself; all is well with it unless a test says more.

    Args:
        script: by route, what it answers before it is well: ``create``, ``state``, ``endpoint``, ``ping``,
            ``command``, ``upload``, ``download``, ``info``, ``delete``, ``list``, ``renew`` or ``logs``. A reply may
            depend on the request.
        tls: as for ``Server``.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, **script: Sequence[Reply | Callable[[Seen], Reply]]
    ) -> None:
        super().__init__([], tls=tls)
        self.script = {route: list(replies) for route, replies in script.items()}
        self.public_host = f"127.0.0.1:{self.port}"
        """How it names itself to those who want to reach the sandbox through its proxy."""

    @property
    def calls(self) -> list[str]:
        """The routes that were asked for, in order."""
        return [self.route(seen) for seen in self.seen]

    def next_reply(self, seen: Seen) -> Reply:
        """Note a request and answer it: from the script of its route, then as if all were well."""
        route = self.route(seen)
        with self._lock:
            self.seen.append(seen)
            planned = self.script.get(route)
            reply = planned.pop(0) if planned else self.usual(route, seen)
            return reply(seen) if callable(reply) else reply

    def usual(self, route: str, seen: Seen) -> Reply:
        """Return what a server answers that is well."""
        sandbox = {"id": "s1", "status": {"state": "Running"}}
        proxied = ("use_server_proxy", "true") in seen.query
        address = f"{self.public_host}/v1/sandboxes/s1/proxy/44772" if proxied else f"127.0.0.1:{self.port}/agent"
        replies = {
            "create": as_json(sandbox, 202),
            "state": as_json(sandbox),
            "endpoint": as_json({"endpoint": address}),
            "list": as_json({"items": [], "pagination": {"hasNextPage": False}}),
            "delete": Reply(204),
            "renew": as_json({}),
            "ping": Reply(200),
            "upload": Reply(200),
        }
        return replies.get(route, Reply(404))

    @staticmethod
    def route(seen: Seen) -> str:
        """Return the name of a request's route."""
        last = seen.path.rpartition("/")[2]
        names = {name: name for name in ("ping", "command", "upload", "download", "info", "logs")}
        own = {("POST", "sandboxes"): "create", ("GET", "sandboxes"): "list", ("DELETE", "s1"): "delete"}
        if "/endpoints/" in seen.path:
            return "endpoint"
        if last == "renew-expiration":
            return "renew"
        return own.get((seen.method, last)) or names.get(last) or ("state" if last == "s1" else seen.path)


@contextmanager
def serving(*replies: Reply, server: Server | None = None) -> Iterator[Server]:
    """Run a server for the length of a block.

    Args:
        replies: what it answers, in order; after them it answers 599.
        server: another kind of server to run instead.
    """
    server = server or Server(replies)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def as_json(value: object, status: int = 200, **headers: str) -> Reply:
    """Return a reply with a JSON body."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def as_events(*events: dict[str, object] | Piece, **how: Any) -> Reply:
    """Return a reply whose body is an event stream as the agent frames it."""
    pieces = [event if not isinstance(event, dict) else json.dumps(event).encode() + b"\n\n" for event in events]
    return Reply(200, pieces, {"Content-Type": "text/event-stream"}, **{"framing": "chunked", **how})


def unused_port() -> int:
    """Return a loopback port on which no server listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def reported(*, stdout: bytes = b"", stderr: bytes = b"", status: int = 0) -> Callable[[Seen], Reply]:
    """Return a reply to a command that the runner reports on.

    Args:
        stdout: what the command wrote to standard output.
        stderr: what it wrote to standard error.
        status: how it ended, as wait(2) has it.
    """

    def reply(seen: Seen) -> Reply:
        lines = report_lines(read_request(seen.json)["n"], stdout=stdout, stderr=stderr, status=status)
        return as_lines(*lines)

    return reply


def as_lines(*lines: str) -> Reply:
    """Return a reply whose events are lines of output, of a process that ends with 0."""
    output = [{"type": "stdout", "text": line} for line in lines]
    return as_events({"type": "init", "text": "c1"}, *output, {"type": "execution_complete"})


@contextmanager
def saying(pieces, *, pause=0.0):
    """Answer one connection with raw bytes, piece by piece, until the other side has had enough; yield the address."""
    over = threading.Event()

    def talk():
        with suppress(OSError), listener.accept()[0] as connection:
            connection.recv(65536)
            for piece in pieces:
                connection.sendall(piece)
                if over.wait(pause):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def dripping(head, body, drops=1000):
    """Return pieces for ``saying``: a head, and then the same few bytes again and again."""
    return itertools.chain([head], itertools.repeat(body, drops))
