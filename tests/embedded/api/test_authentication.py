"""Connections of callers without the key, who may be any user of the machine, do not slow down others."""

import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
import requests

from tests.embedded.machine import USERS, running_server

IDLE = 1_200
SECONDS = 60


@pytest.fixture(scope="module", params=USERS)
def machine(request):
    with running_server(user=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def sandbox(machine):
    return machine.create()


@pytest.fixture(params=["the server", "an endpoint"])
def address(request, machine, sandbox):
    """The address that an unauthenticated caller connects to."""
    url = machine.url if request.param == "the server" else machine.client.discover_execd(sandbox).url
    host, _, port = url.split("/")[2].partition(":")
    return host, int(port)


def connect(address, count, sent=b""):
    """Return so many connections, each of which has sent some bytes, and sends no more."""
    connections = []
    for _ in range(count):
        connection = socket.create_connection(address, timeout=SECONDS)
        with suppress(OSError):  # hung up on already
            connection.sendall(sent)
        connections.append(connection)
    return connections


def is_closed(connection):
    """Say whether the other side closes the connection, perhaps after a response."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\n", id="half a head"),
        pytest.param(
            b"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n{", id="half a body"
        ),
    ],
)
def test_a_run_goes_on_among_silent_connections(machine, sandbox, address, sent):
    with ExitStack() as stack:
        for connection in connect(address, IDLE, sent):
            stack.enter_context(connection)

        made = machine.create()
        results = [machine.run(sandbox_id, "echo works").stdout.strip() for sandbox_id in (sandbox, made)]
        machine.client.delete_sandbox(made)

    assert results == ["works", "works"]


def drip(connection, stop):
    """Send a head that never ends, byte by byte."""
    with suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        while not stop.wait(0.2):
            connection.sendall(b"x")


def test_time_runs_out_for_strangers_and_not_for_a_slow_upload(machine, sandbox):
    """Neither silence nor single bytes extend the time limit; one test, because it has to wait for it."""
    endpoint = machine.client.discover_execd(sandbox)
    host, ports = endpoint.host, (endpoint.port, int(machine.url.rpartition(":")[2]))
    path, body = endpoint.url.partition(f":{endpoint.port}")[2], b'{"command": "echo works"}'
    head = f"POST {path}/command HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    stop = threading.Event()

    with ExitStack() as stack:
        silent, dripping = ([stack.enter_context(connect((host, port), 1)[0]) for port in ports] for _ in range(2))
        upload = stack.enter_context(connect((host, endpoint.port), 1, head.encode() + body[:5])[0])
        for connection in dripping:
            threading.Thread(target=drip, args=(connection, stop)).start()
        closed = [is_closed(connection) for connection in (*silent, *dripping)]
        upload.sendall(body[5:])
        answer = b"".join(iter(lambda: upload.recv(65536), b""))
        stop.set()

    assert closed == [True] * 4
    assert b"works" in answer


def test_a_connection_that_has_shown_the_key_is_kept(machine):
    with requests.Session() as session:
        session.trust_env = False
        session.headers["OPEN-SANDBOX-API-KEY"] = machine.api_key
        with session.get(f"{machine.url}/v1/sandboxes", timeout=SECONDS, stream=True) as answer:
            own = answer.raw.connection.sock.getsockname()
            answer.content  # noqa: B018 - read to its end, or the connection is not kept

        strangers = connect((own[0], int(machine.url.rpartition(":")[2])), IDLE)
        with session.get(f"{machine.url}/v1/sandboxes", timeout=SECONDS, stream=True) as answer:
            kept = answer.raw.connection.sock.getsockname()

        for connection in strangers:
            connection.close()
    assert kept == own


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"PING\r\n", id="redis"),
        pytest.param(b"*1\r\n$4\r\nPING\r\n", id="redis as its clients write it"),
        pytest.param(b"EHLO example.org\r\n", id="mail"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="ssh"),
        pytest.param(b"\x00\x00\x00\x08\x04\xd2\x16\x2f", id="postgres"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http 2 at once"),
    ],
)
def test_other_protocols_are_refused_at_once(machine, sandbox, sent):
    endpoint = machine.client.get_endpoint(sandbox, 6379)
    began = time.monotonic()

    with connect((endpoint.host, endpoint.port), 1, sent)[0] as connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Only HTTP/1" in answer
    assert time.monotonic() - began < 9, "the time limit of a silent client"


def test_the_server_refuses_tls_at_once(machine):
    """A client with https instead of http waits for a response to its TLS handshake."""
    began = time.monotonic()

    with connect(("127.0.0.1", int(machine.url.rpartition(":")[2])), 1, b"\x16\x03\x01\x02\x00\x01\x00")[0] as client:
        answer = client.recv(65536)

    assert answer.split()[1] == b"400"
    assert time.monotonic() - began < 9, "the time limit of a silent client"
