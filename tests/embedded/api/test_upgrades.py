"""WebSocket connections reach a port in a sandbox: at the agent, and through the server's own proxy."""

import hashlib
import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from pytest_opensandbox import Client, FileUpload

MEGABYTES_20 = 20 * 1024 * 1024
PIECE = 64 * 1024
# Agrees to every change of the protocol but /refuse, shows the request, and returns all bytes that follow.
ECHO = """
import socket, sys, threading
def serve(connection):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += connection.recv(65536)
    head, _, rest = head.partition(b"\\r\\n\\r\\n")
    if b"/refuse" in head:
        connection.sendall(b"HTTP/1.1 403 Forbidden\\r\\nContent-Length: 2\\r\\n\\r\\nno")
        return connection.close()
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n")
    connection.sendall(b"%08d" % len(head) + head + rest)
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    connection.close()
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, backlog=300)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def echoing(machine):
    """A sandbox with echo servers on 127.0.0.1, ::1 and ::."""
    sandbox = machine.create()
    agent = machine.client.discover_execd(sandbox)
    machine.client.upload_files(agent, [FileUpload("/srv/echo.py", ECHO.encode())])
    for address, port in (("127.0.0.1", 8201), ("::1", 8202), ("::", 8203)):
        machine.client.run_command(agent, f"exec python3 /srv/echo.py {address} {port}", background=True)
    time.sleep(1)
    return sandbox


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "through the server"])
def upgraded(request, machine):
    """Ask for a change of the protocol; yields the connection, a file to read it, and the status."""
    with Client(machine.url, machine.api_key, use_server_proxy=request.param) as client:
        yield lambda sandbox, port=8201, path="/ws", **changes: upgrade(
            client.get_endpoint(sandbox, port), machine.api_key, path, **changes
        )


@contextmanager
def upgrade(endpoint, key, path, **changes):
    parts = urlsplit(endpoint.url)
    headers = {
        "Host": parts.netloc,
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Cookie": "secret",
        **endpoint.headers,
    }
    if "/sandboxes/" in parts.path:
        headers["OPEN-SANDBOX-API-KEY"] = key
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"GET {parts.path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value)]
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        file = connection.makefile("rb")
        status = int(file.readline().split()[1])
        while file.readline().strip():
            pass
        yield connection, file, status


def seen_by_server(file):
    return file.read(int(file.read(8))).decode()


@pytest.mark.parametrize("port", [8201, 8202, 8203], ids=["127.0.0.1", "::1", "::"])
def test_bytes_pass_both_ways_after_the_change(upgraded, echoing, port):
    with upgraded(echoing, port) as (connection, file, status):
        assert status == 101
        seen_by_server(file)
        connection.sendall(b"hello")

        assert file.read(5) == b"hello"


def test_the_server_inside_sees_the_request_without_credentials(upgraded, echoing, machine):
    with upgraded(echoing, path="/a%20b?x=1", Sec_WebSocket_Key="k", X_EXECD_ACCESS_TOKEN="") as (_, file, status):
        seen = seen_by_server(file) if status == 101 else ""

    if seen:
        assert "GET /a%20b?x=1 HTTP/1.1" in seen
        assert "sec-websocket-key: k" in seen.lower()
        assert machine.api_key not in seen
        assert "access-token" not in seen.lower()


def test_many_bytes_pass_both_ways_at_once(upgraded, echoing):
    sent, received = hashlib.sha256(), hashlib.sha256()
    with upgraded(echoing) as (connection, file, _):
        seen_by_server(file)

        def send():
            for _ in range(MEGABYTES_20 // PIECE):
                piece = os.urandom(PIECE)
                sent.update(piece)
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        while piece := file.read1(PIECE):
            received.update(piece)
        thread.join()

    assert received.digest() == sent.digest()


def test_a_hundred_connections_at_once_leave_the_server_free(upgraded, echoing, machine):
    with ExitStack() as stack:
        opened = [stack.enter_context(upgraded(echoing)) for _ in range(100)]
        for number, (connection, file, _) in enumerate(opened):
            seen_by_server(file)
            connection.sendall(b"%03d" % number)

        assert [file.read(3) for _, file, _ in opened] == [b"%03d" % number for number in range(100)]
        assert machine.client.get_sandbox(echoing).state == "Running"


def test_a_refusal_of_the_server_inside_is_passed_on(upgraded, echoing):
    with upgraded(echoing, path="/refuse") as (_, file, status):
        assert (status, file.read(2)) == (403, b"no")


def test_a_connection_that_was_not_changed_stays_with_the_http_server(upgraded, echoing, machine):
    with upgraded(echoing, path="/refuse") as (connection, file, _):
        file.read(2)
        connection.sendall(b"GET /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

        assert file.readline().split()[1] == b"401"


def test_a_server_inside_cannot_change_a_protocol_unasked(upgraded, echoing):
    with upgraded(echoing, Upgrade="", Connection="") as (_, _, status):
        assert status == 502


def test_a_port_on_which_no_server_listens_is_a_502(upgraded, echoing):
    with upgraded(echoing, port=8299) as (_, _, status):
        assert status == 502


@pytest.mark.parametrize("leaves_first", ["client", "server"])
def test_an_abrupt_end_of_one_side_ends_the_other(upgraded, echoing, machine, leaves_first):
    with upgraded(echoing) as (connection, file, _):
        seen_by_server(file)
        if leaves_first == "client":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            machine.run(echoing, "pkill -f 'echo.py 127.0.0.1'; sleep 0.2")
            assert file.read(1) == b""
    if leaves_first == "server":
        agent = machine.client.discover_execd(echoing)
        machine.client.run_command(agent, "exec python3 /srv/echo.py 127.0.0.1 8201", background=True)
        machine.run(echoing, "sleep 1")

    with upgraded(echoing) as (connection, file, _):
        seen_by_server(file)
        connection.sendall(b"again")
        assert file.read(5) == b"again"


def test_a_client_that_does_not_read_stops_no_other(upgraded, echoing):
    with upgraded(echoing) as (stuck, file, _):
        seen_by_server(file)
        stuck.settimeout(1)
        with pytest.raises(TimeoutError):
            stuck.sendall(bytes(64 * MEGABYTES_20 // 20))

        with upgraded(echoing) as (connection, other, _):
            seen_by_server(other)
            connection.sendall(b"on")
            assert other.read(2) == b"on"


def test_a_deleted_sandbox_ends_its_connections(upgraded, machine):
    sandbox = machine.create()
    agent = machine.client.discover_execd(sandbox)
    machine.client.upload_files(agent, [FileUpload("/srv/echo.py", ECHO.encode())])
    machine.client.run_command(agent, "exec python3 /srv/echo.py 127.0.0.1 8201", background=True)
    machine.run(sandbox, "sleep 1")
    with upgraded(sandbox) as (_, file, status):
        assert status == 101
        seen_by_server(file)

        machine.client.delete_sandbox(sandbox)

        assert file.read(1) == b""


def test_without_the_secret_there_is_no_change(machine, echoing):
    endpoint = machine.client.get_endpoint(echoing, 8201)
    parts = urlsplit(endpoint.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        head = "GET /proxy/8201/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        connection.sendall(head.encode())

        assert b" 401 " in connection.recv(1000)
