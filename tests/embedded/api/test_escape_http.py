"""Request smuggling, response splitting, and unauthenticated callers."""

import platform
import socket

import pytest
import requests

from pytest_opensandbox import FileUpload
from pytest_opensandbox.embedded.runtime.agent_connections import EXECD_PORT
from tests.embedded.machine import wait_until

FORGED = "HTTP/1.1 200 FORGED\r\nContent-Length: 6\r\n\r\nforged"
ANSWERS = {
    7001: f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{FORGED}",
    7002: f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{FORGED:64}\r\n0\r\n\r\n",
    7003: f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 58\r\n\r\nok{FORGED}",
    7004: "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nok",
    7005: "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    7006: "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 200 + "\r\n",
    7007: "HTTP/1.1 200 OK\r\nX: " + "y" * 100_000 + "\r\n\r\n",
    7008: "HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    7009: "nonsense",
}
SERVE = f"""
import socket, threading
def serve(port, answer):
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        with connection, open(f"/tmp/{{port}}", "ab") as seen:
            seen.write(connection.recv(65536))
            try:
                connection.sendall(answer.encode())
            except OSError:
                pass
for port, answer in {ANSWERS!r}.items():
    threading.Thread(target=serve, args=(port, answer)).start()
open("/tmp/serving", "w").close()
"""


@pytest.fixture(scope="module")
def sandbox(machine):
    """A sandbox with services that send malformed responses."""
    sandbox_id = machine.create()
    machine.client.upload_files(
        machine.client.discover_execd(sandbox_id), [FileUpload("/tmp/serve.py", SERVE.encode())]
    )
    start = "setsid python3 /tmp/serve.py > /dev/null 2>&1 & until [ -e /tmp/serving ]; do sleep 0.01; done"
    machine.run(sandbox_id, start)
    return sandbox_id


@pytest.fixture
def send(machine):
    """Sends bytes and one more request to the server, and returns everything that it sends back."""
    port = int(machine.url.rpartition(":")[2])
    last = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    def send(head, body=b"", *, key=machine.api_key):
        keyed = f"OPEN-SANDBOX-API-KEY: {key}\r\n" if key else ""
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(f"{head}\r\n{keyed}\r\n".encode("latin-1") + body + last.encode())
            received = b""
            try:
                while data := connection.recv(65536):
                    received += data
            except ConnectionResetError:  # the server need not read on
                pass
        return received

    return send


@pytest.mark.parametrize(
    ("port", "status"),
    [
        pytest.param(7001, b"200", id="a second answer behind the first"),
        pytest.param(7002, b"200", id="a length besides chunks"),
        pytest.param(7003, b"502", id="two lengths"),
        pytest.param(7004, b"502", id="a negative length"),
        pytest.param(7005, b"200", id="a folded header"),
        pytest.param(7006, b"502", id="too many headers"),
        pytest.param(7007, b"502", id="a header that is too long"),
        pytest.param(7008, b"502", id="nothing but interim answers"),
        pytest.param(7009, b"502", id="no HTTP"),
    ],
)
def test_a_service_cannot_forge_the_next_answer(send, sandbox, port, status):
    received = send(f"GET /v1/sandboxes/{sandbox}/proxy/{port}/ HTTP/1.1\r\nHost: 127.0.0.1")

    assert received.split()[1] == status
    assert b"\nHTTP/1.1 200 FORGED" not in received.replace(b"40\r\nHTTP", b"")
    assert received.count(b"Content-Length") + received.count(b"chunked") <= 2


def test_a_service_is_not_told_the_token(machine, send, sandbox):
    send(f"GET /v1/sandboxes/{sandbox}/proxy/7001/ HTTP/1.1\r\nHost: 127.0.0.1")

    seen = machine.run(sandbox, "cat /tmp/7001").stdout

    assert "GET / HTTP/1.1" in seen
    assert machine.client.discover_execd(sandbox).headers["X-EXECD-ACCESS-TOKEN"] not in seen


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param("Content-Length: 4\r\nContent-Length: 8", b"aaaabbbb", id="two lengths"),
        pytest.param("Content-Length: +4", b"aaaa", id="a sign"),
        pytest.param("Content-Length: 4, 4", b"aaaa", id="a list"),
        pytest.param("Transfer-Encoding: chunked, identity", b"4\r\naaaa\r\n0\r\n\r\n", id="another encoding"),
        pytest.param("Transfer-Encoding: chunked", b"-4\r\naaaa\r\n0\r\n\r\n", id="a negative chunk"),
        pytest.param("Transfer-Encoding : chunked", b"0\r\n\r\n", id="a space before the colon"),
    ],
)
def test_a_request_with_a_doubtful_length_ends_the_connection(send, sandbox, framing, body):
    received = send(f"POST /v1/sandboxes/{sandbox}/proxy/7001/ HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}", body)

    assert received.split()[1] in (b"400", b"501")
    assert received.count(b"HTTP/1.") == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/v1/sandboxes/{sandbox}%2fproxy%2f7001/", b"405", id="encoded slashes"),
        pytest.param("/v1/sandboxes/%2e%2e/proxy/7001/", b"404", id="an id that climbs"),
        pytest.param("/v1/sandboxes/x%0d%0aX:%20y", b"404", id="line breaks in an id"),
        pytest.param("/v1/sandboxes/%00", b"404", id="NUL in an id"),
        pytest.param("/v1/sandboxes/%ff", b"404", id="no UTF-8 in an id"),
        pytest.param("/v1/sandboxes/{sandbox}/proxy/0/", b"502", id="port 0"),
        pytest.param("/v1/sandboxes/{sandbox}/proxy/99999/", b"502", id="a port beyond all ports"),
        pytest.param("/v1/sandboxes/{sandbox}/proxy/-1/", b"404", id="a negative port"),
        pytest.param("/v1/sandboxes/{sandbox}/endpoints/-1", b"400", id="a negative port to look up"),
        pytest.param("/v1/sandboxes/{sandbox}/endpoints/" + "9" * 5000, b"422", id="a port of 5,000 digits"),
        pytest.param("/v1/sandboxes?page=" + "9" * 5000, b"422", id="a page of 5,000 digits"),
        pytest.param("/health/../v1/sandboxes", b"404", id="beyond the open paths"),
    ],
)
def test_a_crooked_path_is_refused(send, sandbox, path, status):
    received = send(f"GET {path.format(sandbox=sandbox)} HTTP/1.1\r\nHost: 127.0.0.1")

    assert received.split()[1] == status
    assert b"X: y" not in received.partition(b"\r\n\r\n")[0]


def test_a_path_that_climbs_out_of_the_proxy_stays_in_its_sandbox(machine, send, sandbox):
    other = machine.create()

    send(f"GET /v1/sandboxes/{sandbox}/proxy/7001/../../{other}/proxy/44772/command HTTP/1.1\r\nHost: 127.0.0.1")

    assert f"GET /../../{other}/proxy/44772/command" in machine.run(sandbox, "cat /tmp/7001").stdout


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 200_000, id="deeper than any stack"),
        pytest.param(b'{"timeout":NaN}', id="not a number"),
        pytest.param(b'{"timeout":1e999}', id="infinity"),
        pytest.param(b'{"timeout":' + b"9" * 5000 + b"}", id="5,000 digits"),
        pytest.param(b'{"entrypoint":"\\ud800"}', id="half a character"),
        pytest.param(b"\xff\xfe{", id="another encoding"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(send, body):
    received = send(f"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}", body)

    assert received.split()[1] == b"422"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param("Host: 127.0.0.1\r\nOPEN_SANDBOX_API_KEY: {key}", b"401", id="underscores for dashes"),
        pytest.param("Host: 127.0.0.1\r\nOPEN-SANDBOX-API-KEY: x, {key}", b"401", id="a list of keys"),
        pytest.param("Host: rebound.example\r\nOPEN-SANDBOX-API-KEY: {key}", b"403", id="a name that was rebound"),
        pytest.param("Host: 127.0.0.1\r\nHost: x\r\nOPEN-SANDBOX-API-KEY: {key}", b"403", id="two hosts"),
        pytest.param("X-Forwarded-Host: 127.0.0.1\r\nOPEN-SANDBOX-API-KEY: {key}", b"403", id="no host"),
        pytest.param(
            "Host: 127.0.0.1\r\nOrigin: http://x\r\nContent-Type: text/plain\r\nContent-Length: 0",
            b"401",
            id="a web page's form",
        ),
    ],
)
def test_a_caller_who_may_not_ask_is_refused(machine, send, headers, status):
    received = send(f"POST /v1/sandboxes HTTP/1.1\r\n{headers.format(key=machine.api_key)}", key="")

    assert received.split()[1] == status
    assert b"access-control" not in received.lower()


# Waitress stores bodies on disk before the application checks the key.
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param("Content-Length: 1000000000000", b"", id="announced"),
        pytest.param("Transfer-Encoding: chunked", b"20000\r\n" + b"x" * 0x20000 + b"\r\n", id="in chunks"),
    ],
)
@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_stranger_s_long_body_is_not_taken_in(send, framing, body, key):
    received = send(f"POST /v1/sandboxes HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}", body, key=key)

    assert received.split()[1:2] in ([b"413"], [])
    assert received.count(b"HTTP/1.1 ") <= 1


def test_without_the_token_the_direct_port_refuses_everything(machine, sandbox):
    relay = "/".join(machine.client.discover_execd(sandbox).url.split("/")[:3])

    for path in ("/ping", "/proxy/44772/ping", "/proxy/7001/", "//ping", "/files/download?path=/etc/passwd"):
        assert machine.get(f"{relay}{path}").status_code == 401


def test_headers_without_end_are_cut_off(machine):
    port = int(machine.url.rpartition(":")[2])

    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 50_000)

        assert connection.recv(65536).split()[1] == b"431"


# Takes the agent's socket, which any process beside the agent can do, and stops the agent.
IN_PLACE_OF_THE_AGENT = """
import ctypes, os, signal, socket
call = ctypes.CDLL(None, use_errno=True).syscall
agent = os.pidfd_open(2)
for number in map(int, os.listdir("/proc/2/fd")):
    taken = call(438, agent, number, 0)
    if taken >= 0 and os.readlink(f"/proc/self/fd/{taken}").startswith("socket:"):
        listener = socket.socket(fileno=taken)
        if listener.family == socket.AF_UNIX and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            break
os.kill(2, signal.SIGSTOP)
listener.setblocking(True)
while True:
    connection, _ = listener.accept()
    try:
        while True: connection.sendall(b"HTTP/1.1 100 Continue\\r\\n\\r\\n" * 1000)
    except OSError:
        pass
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number is that of x86_64")
def test_interim_answers_without_end_keep_no_thread_of_the_server(machine):
    sandbox_id = machine.create(env={"SCRIPT": IN_PLACE_OF_THE_AGENT})
    found = machine.request("GET", f"/v1/sandboxes/{sandbox_id}/endpoints/{EXECD_PORT}?use_server_proxy=true").json()
    machine.run(sandbox_id, 'setsid python3 -c "$SCRIPT" > /dev/null 2>&1 &')
    path = found["endpoint"].partition("/")[2]

    def status():
        try:
            return machine.request("GET", f"/{path}/ping", headers=found["headers"]).status_code
        except requests.Timeout:  # the agent was stopped after it had accepted the connection
            return None

    assert wait_until(lambda: status() not in (200, None))
    assert status() == 502
    machine.client.delete_sandbox(sandbox_id)
