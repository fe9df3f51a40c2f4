"""The reverse proxy to other ports of the sandbox."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.embedded.agent_process import Agent


@pytest.mark.parametrize("path", ["/proxy/44772/ping", "/proxy/44772/proxy/44772/ping"])
def test_the_agents_own_port_is_the_agent(agent: Agent, path: str) -> None:
    answer = agent.get(path)

    assert (answer.status_code, answer.content, answer.headers.get("Content-Type")) == (200, b"", None)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent, or with a stream that ends when the client goes."""

    protocol_version = "HTTP/1.1"
    gone = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201, "Made")
        self.send_header("Content-Length", str(len(self.path) + len(body)))
        self.send_header(
            "X-Seen", f"{self.headers['X-Mine']} {self.headers['Host']} {self.headers['X-Forwarded-Proto']}"
        )
        self.end_headers()
        self.wfile.write(self.path.encode() + body)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nhello\r\n")
        self.wfile.flush()
        self.connection.recv(1)
        self.gone.set()
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def echo() -> Iterator[int]:
    """Run a service and yield its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_another_port_gets_the_request_and_its_answer_comes_back(agent: Agent) -> None:
    with echo() as port:
        answer = agent.post(f"/proxy/{port}/a%20b%2Fc?q=1&r=%26", data=b"body", headers={"X-Mine": "yes"})

    assert (answer.status_code, answer.reason) == (201, "Made")
    assert answer.text == "/a%20b/c?q=1&r=%26body"
    assert answer.headers["X-Seen"] == f"yes {agent.url.removeprefix('http://')} http"


def test_a_stream_from_another_port_ends_when_the_client_goes(agent: Agent) -> None:
    Echo.gone.clear()
    with echo() as port:
        with agent.get(f"/proxy/{port}/", stream=True) as answer:
            assert next(answer.iter_content(5)) == b"hello"

        assert Echo.gone.wait(20)


WEBSOCKET = {"Upgrade": "websocket", "Connection": "Upgrade"}


@pytest.mark.parametrize(
    ("path", "headers", "status", "text"),
    [
        pytest.param("/proxy/1/x", {}, 502, "Bad Gateway\n", id="nothing listens"),
        pytest.param("/proxy/99999/x", {}, 502, "Bad Gateway\n", id="no such port"),
        pytest.param("/proxy/abc/x", {}, 502, "Bad Gateway\n", id="no port"),
        pytest.param("/proxy/", {}, 400, "port is required\n", id="no port at all"),
        pytest.param("/proxy/1/x", WEBSOCKET, 502, "Bad Gateway\n", id="no server for a WebSocket"),
    ],
)
def test_a_port_that_cannot_be_reached(
    agent: Agent, path: str, headers: dict[str, str], status: int, text: str
) -> None:
    answer = agent.get(path, headers=headers)

    assert answer.status_code == status
    assert answer.text.startswith(text)
