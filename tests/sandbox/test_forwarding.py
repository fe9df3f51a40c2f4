"""TCP connections reach a port in the sandbox, and from the sandbox one port of this machine."""

import hashlib
import os
import socket
import threading
import urllib.request
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_opensandbox import ConfigError, SandboxError

MEGABYTES_100 = 100 * 1024 * 1024
PIECE = 64 * 1024
ECHO = """
import socket, sys, threading
def serve(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(b"the end")
listener = socket.create_server(("127.0.0.1", 8301), backlog=200)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def echoing(shared_sandbox):
    """A sandbox with an echo server on port 8301."""
    shared_sandbox.put(ECHO, "/srv/echo.py")
    with shared_sandbox.start("exec python3 /srv/echo.py") as server:
        shared_sandbox.wait_for_port(8301, process=server)
        yield shared_sandbox


def test_bytes_come_back_with_the_end_of_each_direction(echoing):
    with echoing.forward(8301) as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        client.shutdown(socket.SHUT_WR)

        assert client.recv(100) == b"the end"
        assert client.recv(100) == b""


def test_a_hundred_megabytes_go_both_ways(echoing):
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send():
        for _ in range(MEGABYTES_100 // PIECE):
            piece = os.urandom(PIECE)
            sent.update(piece)
            client.sendall(piece)

    with echoing.forward(8301) as address, socket.create_connection(address, timeout=60) as client:
        thread = threading.Thread(target=send)
        thread.start()
        left = MEGABYTES_100
        while left:
            piece = client.recv(min(PIECE, left))
            received.update(piece)
            left -= len(piece)
        thread.join()

    assert received.digest() == sent.digest()


def test_fifty_connections_at_once(echoing):
    with echoing.forward(8301) as address, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(b"%02d" % number)

        assert [client.recv(2) for client in clients] == [b"%02d" % number for number in range(50)]


def send_all_patiently(client, size):
    """Send zeros; fail when none is taken for as long as the timeout of the socket."""
    while size > 0:
        size -= client.send(bytes(min(size, PIECE)))


def test_a_client_that_does_not_read_stops_no_other(echoing):
    with echoing.forward(8301) as address, socket.create_connection(address, timeout=2) as stuck:
        # The kernel's buffers on the way take up to 37 MB each.
        with pytest.raises(TimeoutError):
            send_all_patiently(stuck, 20 * MEGABYTES_100)

        with socket.create_connection(address, timeout=20) as client:
            client.sendall(b"on")
            assert client.recv(2) == b"on"


def test_a_port_without_a_server_resets_and_is_noted(sandbox):
    with (
        sandbox.forward(8302) as address,
        socket.create_connection(address, timeout=20) as client,
        pytest.raises(ConnectionResetError),
    ):
        client.recv(1)

    notes = [record.command for record in sandbox.history if record.is_note]
    assert notes == ["forward 8302: no server listens on port 8302"]


def test_the_end_of_the_block_ends_its_connections_and_its_process(echoing):
    with echoing.forward(8301) as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(b"x")
        client.recv(1)
        open_connection = client.dup()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    open_connection.settimeout(10)
    with open_connection, pytest.raises(ConnectionResetError):
        open_connection.recv(1) or pytest.fail("it ended in an orderly way")
    # Those of the echo server and of this command.
    assert echoing.run(["pgrep", "-fc", "/.opensandbox-runner-"]).stdout == "2\n"


def test_a_server_that_ends_resets_the_connection(sandbox):
    sandbox.put(ECHO, "/srv/echo.py")
    with sandbox.start("exec python3 /srv/echo.py") as server:
        sandbox.wait_for_port(8301, process=server)
        with sandbox.forward(8301) as address, socket.create_connection(address, timeout=20) as client:
            client.sendall(b"x")
            client.recv(1)
            server.kill()

            with suppress(ConnectionResetError):
                assert client.recv(100) == b""


class Greeter(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"greetings for {self.path}".encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def greeter():
    """A server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


GET = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:{}/{}').read().decode())"


def test_a_sandbox_reaches_the_named_port_of_this_machine(shared_sandbox, greeter):
    with shared_sandbox.expose(greeter) as inner_port:
        seen = shared_sandbox.run(["python3", "-c", GET.format(inner_port, "inside")], check=True).stdout

    assert seen == "greetings for /inside\n"


def test_more_connections_than_stand_by_are_served(shared_sandbox, greeter):
    loop = f'for i in $(seq 20); do python3 -c "{GET.format("$P", "$i")}" & done; wait'
    with shared_sandbox.expose(greeter) as inner_port:
        result = shared_sandbox.run(loop, env={"P": str(inner_port)}, check=True)

    assert sorted(result.stdout.split()[2::3]) == sorted(f"/{number}" for number in range(1, 21))


def test_the_inner_port_can_be_chosen_and_ends_with_the_block(shared_sandbox, greeter):
    with shared_sandbox.expose(greeter, inner_port=8311) as inner_port:
        shared_sandbox.run(["python3", "-c", GET.format(8311, "x")], check=True)

    assert inner_port == 8311
    assert "refused" in shared_sandbox.run(["python3", "-c", GET.format(8311, "x")]).stderr


def test_an_inner_port_in_use_is_an_error(echoing, greeter):
    with pytest.raises(SandboxError), echoing.expose(greeter, inner_port=8301):
        pass


def test_an_exposed_port_without_a_server_resets_and_is_noted(sandbox):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with sandbox.expose(port) as inner_port:
            result = sandbox.run(["python3", "-c", GET.format(inner_port, "x")])

    assert "reset" in result.stderr.lower()
    assert [record.command.split(": ")[0] for record in sandbox.history if record.is_note] == [
        f"expose 127.0.0.1:{port}"
    ]


@pytest.mark.parametrize("port", [0, 65_536, "80", True])
def test_a_port_that_is_none_is_refused_by_its_name(shared_sandbox, port):
    with pytest.raises(ConfigError, match="port"), shared_sandbox.forward(port):
        pass
    with pytest.raises(ConfigError, match="port"), shared_sandbox.expose(port):
        pass


def test_an_http_server_is_reached_as_well(shared_sandbox):
    with (
        shared_sandbox.start("cd /srv && exec python3 -m http.server --bind 127.0.0.1 8312") as server,
        shared_sandbox.forward(8312) as (host, port),
    ):
        shared_sandbox.wait_for_port(8312, process=server)
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=20) as answer:
            assert answer.status == 200
