"""The HTTP side of a simulated cluster: the lifecycle API, and a gateway with one agent for all pods."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from tests.fleet.cluster import Cluster, RefusalError, SimulatedSandbox
from tests.fleet.model import Model
from tests.runner_reports import read_request, report_lines

API_KEY = "the-key-of-the-fleet"
INGRESS_HEADER = "OpenSandbox-Ingress-To"
TOKEN_HEADER = "OpenSandbox-Secure-Access"
EXECD_PORT = "44772"

_SLEEP = re.compile(r"\bsleep ([0-9.]+)")
_ONE = r"/v1/sandboxes/(?P<sandbox_id>[^/]+)"
_ROUTE = re.compile(
    r"(?P<sandbox_id>[0-9a-f-]{36})[-/](?P<port>\d+)(?:[-/](?P<expires>[0-9a-z]+)[-/](?P<signature>\w{9}))?"
)

Body = dict[str, Any]


class RequestHandler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fleet: Fleet

    def answer(self) -> None:
        """Read a request, wait for its latency, and answer it."""
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.fleet.pass_latency()
            if parts.path == "/fleet":
                self.send(200, self.fleet.figures)
            elif parts.path.startswith("/v1/") and "/proxy/" not in parts.path:
                self.manage(parts.path, parse_qs(parts.query), json.loads(body) if body else {})
            else:
                self.forward(parts.path, body)
        except RefusalError as refusal:
            self.fleet.cluster.count(f"{refusal.status} {refusal.code.rpartition(':')[2]}")
            self.send(refusal.status, {"code": refusal.code, "message": refusal.message}, **refusal.headers)
        except OSError:
            self.close_connection = True

    def manage(self, path: str, query: dict[str, list[str]], body: Body) -> None:
        """Answer a request to the lifecycle API."""
        if self.headers.get("OPEN-SANDBOX-API-KEY") != API_KEY:
            raise RefusalError(401, "INVALID_API_KEY", "Invalid API key")
        for method, pattern, handle in self.fleet.routes:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                self.fleet.cluster.count(handle.__name__)
                status, content = handle(query=query, body=body, **found.groupdict())
                self.send(status, content)
                return
        raise RefusalError(404, "GENERAL::UNKNOWN_ERROR", "Not Found")

    def forward(self, path: str, body: bytes) -> None:
        """Find the sandbox behind the gateway, and let its agent answer."""
        sandbox, port, rest = self.fleet.resolve(path, self.headers)
        if port != EXECD_PORT:
            self.send(200, {"port": port, "of": sandbox.id})
        elif rest == "/ping":
            self.send(200, None)
        elif rest == "/command" and self.command == "POST":
            self.run(sandbox, json.loads(body))
        elif rest == "/files/upload":
            self.send(200, None)
        else:
            raise RefusalError(404, "", "404 page not found")

    def run(self, sandbox: SimulatedSandbox, body: Body) -> None:
        """Answer a command as execd does, with the id of its sandbox as output."""
        self.send_headers(200, {"Content-Type": "text/event-stream", "Connection": "close"})
        self.send_event(type="init", text=uuid.uuid4().hex)
        self.send_event(type="ping", text="pong")
        request = read_request(body)
        found = _SLEEP.search(request.get("s", body["command"]))
        seconds = float(found[1]) if found else 0.0
        self.fleet.cluster.sleep(seconds)
        output = f"{sandbox.id}\n".encode()
        for line in report_lines(request["n"], stdout=output) if request else (sandbox.id,):
            self.send_event(type="stdout", text=line)
        self.send_event(type="execution_complete", execution_time=int(seconds * 1000))
        self.fleet.cluster.sleep(self.fleet.cluster.model.linger)
        self.close_connection = True

    def send_event(self, **event: object) -> None:
        """Send one event."""
        self.wfile.write(json.dumps(event | {"timestamp": int(time.time() * 1000)}).encode() + b"\n\n")

    def send(self, status: int, content: object, **headers: str) -> None:
        """Send a whole response at once."""
        body = b"" if content is None else json.dumps(content).encode()
        self.send_headers(status, {"Content-Length": str(len(body)), **headers}, body)

    def send_headers(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send the head of a response, with the beginning of its body."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


for _method in ("GET", "POST", "DELETE", "PATCH"):
    setattr(RequestHandler, f"do_{_method}", RequestHandler.answer)


class LoopbackServer(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 256


class Fleet:
    """A cluster behind a loopback port."""

    def __init__(self, model: Model) -> None:
        self.cluster = Cluster(model)
        self._requests = iter(range(10**9))
        self._lock = threading.Lock()
        self.gateway_headers: list[Any] = []
        """Headers of each request that went through the gateway."""
        self._http = LoopbackServer(("127.0.0.1", 0), type("RequestHandler", (RequestHandler,), {"fleet": self}))
        self.host = f"127.0.0.1:{self._http.server_port}"
        self.url = f"http://{self.host}"
        """Its address."""
        self.routes: list[tuple[str, str, Callable[..., tuple[int, object]]]] = [
            ("POST", "/v1/sandboxes", self.create),
            ("GET", "/v1/sandboxes", self.list),
            ("GET", _ONE, self.get),
            ("DELETE", _ONE, self.delete),
            ("GET", rf"{_ONE}/endpoints/(?P<port>\d+)", self.endpoint),
            ("POST", rf"{_ONE}/renew-expiration", self.renew),
            ("POST", rf"{_ONE}/pause", self.pause),
            ("POST", rf"{_ONE}/resume", self.resume),
        ]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve requests for the length of a block."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    @property
    def figures(self) -> dict[str, float]:
        """How often each event happened, and the processor time of this process; seconds."""
        return dict(self.cluster.counts) | {"cpu": time.process_time(), "alive": len(self.alive)}

    @property
    def alive(self) -> list[str]:
        """Ids of the sandboxes that are not deleted."""
        return [sandbox.id for sandbox in self.cluster.all() if sandbox.gone_at is None]

    def pass_latency(self) -> None:
        """Wait for as long as the next request takes."""
        with self._lock:
            number = next(self._requests)
        model = self.cluster.model
        self.cluster.sleep(model.request.draw(model.seed, "request", number))

    def create(self, body: Body, **_: Any) -> tuple[int, object]:
        """POST /sandboxes."""
        return 202, self.cluster.create(body).to_wire(self.cluster.now)

    def list(self, query: dict[str, list[str]], **_: Any) -> tuple[int, object]:
        """GET /sandboxes."""
        wanted = dict(parse_qsl(query.get("metadata", [""])[0]))
        sandboxes = [sandbox for sandbox in self.cluster.all() if wanted.items() <= sandbox.metadata.items()]
        page, size = int(query.get("page", ["1"])[0]), int(query.get("pageSize", ["20"])[0])
        shown = sandboxes[(page - 1) * size : page * size]
        return 200, {
            "items": [sandbox.to_wire(self.cluster.now) for sandbox in shown],
            "pagination": {"page": page, "pageSize": size, "hasNextPage": page * size < len(sandboxes)},
        }

    def get(self, sandbox_id: str, **_: Any) -> tuple[int, object]:
        """GET /sandboxes/{id}."""
        return 200, self.cluster.get_sandbox(sandbox_id).to_wire(self.cluster.now)

    def delete(self, sandbox_id: str, **_: Any) -> tuple[int, object]:
        """DELETE /sandboxes/{id}."""
        self.cluster.delete(sandbox_id)
        return 204, None

    def renew(self, sandbox_id: str, body: Body, **_: Any) -> tuple[int, object]:
        """POST /sandboxes/{id}/renew-expiration."""
        sandbox = self.cluster.get_sandbox(sandbox_id)
        sandbox.ends_at = time.mktime(time.strptime(body["expiresAt"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        return 200, {"expiresAt": body["expiresAt"]}

    def pause(self, sandbox_id: str, **_: Any) -> tuple[int, object]:
        """POST /sandboxes/{id}/pause."""
        self.cluster.pause(self.cluster.get_sandbox(sandbox_id))
        return 202, None

    def resume(self, sandbox_id: str, **_: Any) -> tuple[int, object]:
        """POST /sandboxes/{id}/resume."""
        self.cluster.resume(self.cluster.get_sandbox(sandbox_id))
        return 202, None

    def endpoint(self, sandbox_id: str, port: str, query: dict[str, list[str]], **_: Any) -> tuple[int, object]:
        """GET /sandboxes/{id}/endpoints/{port}."""
        sandbox = self.cluster.get_sandbox(sandbox_id)
        if sandbox.state(self.cluster.now) != "Running" or sandbox.reachable_at > self.cluster.now:
            raise RefusalError(404, "KUBERNETES::POD_IP_NOT_AVAILABLE", "Pod IP is not yet available.")
        expires = query.get("expires", [""])[0]
        signed = [_base36(int(expires)), sandbox.sign(int(port), _base36(int(expires)))] if expires else []
        answer = self._address(sandbox, port, signed, through_server="use_server_proxy" in query)
        if sandbox.token and not signed:
            answer["headers"] = {**answer.get("headers", {}), TOKEN_HEADER: sandbox.token}
        return 200, answer

    def resolve(self, path: str, headers: Any) -> tuple[SimulatedSandbox, str, str]:
        """Return the sandbox, the port and the path behind them that a request to the gateway is for."""
        self.gateway_headers.append(headers)
        named = headers.get(INGRESS_HEADER)
        found = _ROUTE.fullmatch(named) if named else _ROUTE.search(path.replace("/proxy/", "/"))
        if found is None:
            raise RefusalError(404, "", "no such route")
        sandbox = self.cluster.get_sandbox(found["sandbox_id"])
        self._check_access(sandbox, found, headers)
        pod = re.match(r"/pods/(\d+)", path)
        if sandbox.listening_at > self.cluster.now or (pod and int(pod[1]) != sandbox.address):
            raise RefusalError(503, "", "sandbox not ready")
        return sandbox, found["port"], path if named else path.replace("/proxy/", "/")[found.end() :]

    def _address(
        self, sandbox: SimulatedSandbox, port: str, signed: list[str], *, through_server: bool
    ) -> dict[str, Any]:
        if through_server:
            return {"endpoint": f"{self.host}/v1/sandboxes/{sandbox.id}/proxy/{port}"}
        kind = self.cluster.model.endpoints
        if kind == "header":
            return {"endpoint": self.host, "headers": {INGRESS_HEADER: "-".join([sandbox.id, port, *signed])}}
        way = "/".join([sandbox.id, port, *signed])
        return {"endpoint": f"{self.host}/{way}" if kind == "uri" else f"{self.host}/pods/{sandbox.address}/{way}"}

    def _check_access(self, sandbox: SimulatedSandbox, route: re.Match[str], headers: Any) -> None:
        if not sandbox.token:
            return
        is_signed = route["signature"] and route["signature"] == sandbox.sign(int(route["port"]), route["expires"])
        if not is_signed and headers.get(TOKEN_HEADER) != sandbox.token:
            raise RefusalError(401, "MISSING_OR_INVALID_SECURE_ACCESS", "secure access required")


@contextmanager
def running(model: Model) -> Iterator[Fleet]:
    """Run a fleet for the length of a block."""
    fleet = Fleet(model)
    with fleet.serving():
        yield fleet


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
