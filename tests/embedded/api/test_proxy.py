"""The two ways to a port in a sandbox: its own loopback port, and the server's proxy."""

import hashlib
import json
import select
import socket
import threading
import time
from contextlib import ExitStack

import pytest
import requests

from tests.embedded.machine import running_server, wait_until

ECHO = r"""
import http.server, json, sys, time
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/slow":
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for part in (b"first", b"second"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part)); self.wfile.flush(); time.sleep(0.5)
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/cut":
            self.send_response(200); self.send_header("Content-Length", "100"); self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
            return
        request = {"method": self.command, "path": self.path, "headers": dict(self.headers), "length": len(body)}
        data = json.dumps(request).encode()
        self.send_response(302 if self.path == "/moved" else 200)
        if self.path == "/moved": self.send_header("Location", "/elsewhere?a=b")
        self.send_header("Set-Cookie", "a=1"); self.send_header("Set-Cookie", "b=2")
        self.send_header("Content-Length", str(len(data))); self.end_headers(); self.wfile.write(data)
    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def sandbox(machine):
    """A sandbox with a service on port 8000."""
    sandbox_id = machine.create(env={"ECHO": ECHO})
    machine.run(sandbox_id, 'nohup python3 -c "$ECHO" > /tmp/log 2>&1 &')
    knock = "exec 3<>/dev/tcp/127.0.0.1/8000"
    assert wait_until(lambda: machine.run(sandbox_id, knock).exit_code == 0), machine.run(sandbox_id, "cat /tmp/log")
    return sandbox_id


@pytest.fixture(params=[False, True], ids=["directly", "through the server"])
def port(machine, sandbox, request):
    """Base URL and headers of a way to any port."""

    def find(number):
        query = "?use_server_proxy=true" if request.param else ""
        found = machine.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/{number}{query}").json()
        return f"http://{found['endpoint']}", found["headers"]

    return find


@pytest.fixture
def through_server(machine, sandbox):
    def send(method, path, **options):
        return machine.request(method, f"/v1/sandboxes/{sandbox}/proxy{path}", allow_redirects=False, **options)

    return send


def test_the_agent_answers(port):
    url, headers = port(44772)

    answer = requests.get(f"{url}/ping", headers=headers, timeout=10)

    assert (answer.status_code, answer.content) == (200, b"")


def test_the_address_alone_opens_the_port(port):
    """Many clients do not send an endpoint's headers: a real server's ports and proxy need none."""
    url, _ = port(44772)

    assert requests.get(f"{url}/ping", timeout=10).status_code == 200


@pytest.mark.parametrize("secret", ["", f"/{'0' * 32}", "/x"], ids=["none", "another", "a short one"])
def test_an_address_without_the_secret_opens_nothing(port, secret):
    url, headers = port(44772)
    url = url.replace(f"/{headers['X-EXECD-ACCESS-TOKEN']}", secret)

    assert requests.get(f"{url}/ping", timeout=10).status_code == 401


def test_a_sandbox_s_secret_opens_no_other_sandbox(machine, port):
    url, headers = port(44772)
    other = machine.client.discover_execd(machine.create()).headers["X-EXECD-ACCESS-TOKEN"]
    secret = headers["X-EXECD-ACCESS-TOKEN"]

    assert requests.get(f"{url.replace(secret, other)}/ping", timeout=10).status_code == 401


def test_a_sandbox_s_secret_opens_nothing_but_its_proxy(machine, sandbox):
    secret = machine.client.discover_execd(sandbox).headers["X-EXECD-ACCESS-TOKEN"]

    for path in ("/v1/sandboxes", f"/v1/sandboxes/{sandbox}", f"/v1/sandboxes/{sandbox}/endpoints/1", "/health"):
        assert machine.request("GET", f"/{secret}{path}", headers={}).status_code == 401


def test_a_service_is_not_told_the_secret(port):
    url, headers = port(8000)

    request = requests.get(f"{url}/x", timeout=10).json()

    assert request["path"] == "/x"
    assert headers["X-EXECD-ACCESS-TOKEN"] not in str(request)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_a_service_answers(port, method):
    url, headers = port(8000)

    answer = requests.request(method, f"{url}/a%20b/c?x=1&x=%2F&y", headers=headers, data=b"12345", timeout=10)

    request = answer.json()
    assert (request["method"], request["path"]) == (method, "/a%20b/c?x=1&x=%2F&y")
    assert request["length"] == 5 or method == "GET"


def test_an_answer_arrives_piece_by_piece(port):
    """Events must not wait for the end of their stream."""
    url, headers = port(8000)

    with requests.get(f"{url}/slow", headers=headers, stream=True, timeout=10) as answer:
        pieces = [(time.monotonic(), piece) for piece in answer.iter_content(None)]

    assert [piece for _, piece in pieces] == [b"first", b"second"]
    assert pieces[1][0] - pieces[0][0] > 0.2


def test_a_body_that_is_cut_is_not_passed_off_as_whole(port):
    url, headers = port(8000)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{url}/cut", headers=headers, timeout=10)


def test_large_bodies_pass_unchanged(port):
    url, headers = port(44772)
    content = bytes(range(256)) * 64 * 1024  # 16 MiB
    metadata = ("metadata", json.dumps({"path": "/tmp/large", "mode": 644}), "application/json")

    files = {"metadata": metadata, "file": ("file", content)}
    assert requests.post(f"{url}/files/upload", headers=headers, files=files, timeout=60).status_code == 200
    got = requests.get(f"{url}/files/download?path=/tmp/large", headers=headers, timeout=60).content

    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()


def test_nothing_listening_is_a_bad_gateway(machine, sandbox, through_server):
    refused = through_server("GET", "/8001/")

    assert (refused.status_code, refused.json()["code"]) == (502, "BACKEND_CONNECTION_FAILED")


def test_a_sandbox_that_has_ended_is_a_bad_gateway(machine):
    made = machine.request(
        "POST", "/v1/sandboxes", json={"image": {"uri": "host"}, "entrypoint": ["true"], "resourceLimits": {"cpu": "1"}}
    ).json()
    path = f"/v1/sandboxes/{made['id']}"
    assert wait_until(lambda: machine.request("GET", path).json()["status"]["state"] == "Terminated")

    refused = machine.request("GET", f"{path}/proxy/44772/ping")

    assert (refused.status_code, refused.json()["code"]) == (502, "BACKEND_CONNECTION_FAILED")


def test_credentials_stop_at_the_proxy(machine, through_server):
    secret = {"Authorization": "Bearer s", "Cookie": "c=s", "X-Forwarded-For": "1.2.3.4", "X-Kept": "yes"}

    headers = through_server("GET", "/8000/", headers={"OPEN-SANDBOX-API-KEY": machine.api_key, **secret}).json()[
        "headers"
    ]

    received = {name.lower(): value for name, value in headers.items()}
    assert received["x-kept"] == "yes"
    assert "1.2.3.4" not in received.values()
    assert not {"authorization", "cookie", "open-sandbox-api-key"} & received.keys()
    assert machine.api_key not in received.values()


def test_repeated_headers_stay_repeated(through_server):
    cookies = through_server("GET", "/8000/").raw.headers.getlist("Set-Cookie")

    assert cookies == ["a=1", "b=2"]


def test_a_redirect_stays_inside_the_proxy(sandbox, through_server):
    moved = through_server("GET", "/8000/moved")

    assert moved.headers["Location"] == f"/v1/sandboxes/{sandbox}/proxy/8000/elsewhere?a=b"


def test_a_redirect_keeps_the_secret_that_opens_the_proxy(machine, sandbox):
    found = machine.request("GET", f"/v1/sandboxes/{sandbox}/endpoints/8000?use_server_proxy=true").json()["endpoint"]

    moved = requests.get(f"http://{found}/moved", timeout=10, allow_redirects=False)

    assert moved.headers["Location"] == f"/{found.partition('/')[2]}/elsewhere?a=b"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_some_methods_are_not_routed(through_server, method):
    assert through_server(method, "/8000/").status_code == 405


def test_a_change_of_protocol_that_the_service_ignores_is_ignored(machine, through_server):
    headers = {"OPEN-SANDBOX-API-KEY": machine.api_key, "Connection": "Upgrade", "Upgrade": "websocket"}

    assert through_server("GET", "/8000/", headers=headers).status_code == 200


def test_an_unknown_sandbox_is_not_found(machine):
    refused = machine.request("GET", "/v1/sandboxes/none/proxy/44772/ping")

    assert (refused.status_code, refused.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_FOUND")


def test_many_streams_do_not_keep_others_waiting(machine, sandbox):
    """A suite may follow dozens of commands at once through the proxy."""
    url = f"{machine.url}/v1/sandboxes/{sandbox}/proxy/44772"
    headers = {"OPEN-SANDBOX-API-KEY": machine.api_key}
    open_streams = []

    def follow():
        stream = requests.post(f"{url}/command", headers=headers, json={"command": "sleep 3"}, stream=True, timeout=30)
        open_streams.append(stream)

    threads = [threading.Thread(target=follow) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert requests.get(f"{url}/ping", headers=headers, timeout=2).status_code == 200

    for stream in open_streams:
        stream.close()
    assert len(open_streams) == 40


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_service_is_reached_whichever_loopback_it_listens_on(machine, port, sandbox, host):
    """What ``localhost`` means to a server is often ::1 alone."""
    number = {"127.0.0.1": 8101, "::1": 8102, "localhost": 8103}[host]
    machine.run(sandbox, f"nohup setsid python3 -m http.server {number} --bind {host} > /dev/null 2>&1 &")
    url, headers = port(number)

    assert wait_until(lambda: requests.get(f"{url}/", headers=headers, timeout=10).status_code == 200)


@pytest.fixture
def fresh():
    """A new server: requests that another test left hanging would count."""
    with running_server() as machine:
        yield machine


def test_a_paused_sandbox_can_be_resumed_while_requests_wait_for_it(fresh):
    sandbox_id = fresh.create()
    found = fresh.request("GET", f"/v1/sandboxes/{sandbox_id}/endpoints/8000?use_server_proxy=true").json()
    address, _, path = found["endpoint"].partition("/")
    host, _, port = address.partition(":")
    fresh.client.pause(sandbox_id)
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(70)]
        for connection in waiting:
            connection.sendall(f"GET /{path}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        # Refusals come at once: the other requests have a thread each by then.
        assert wait_until(lambda: len(select.select(waiting, [], [], 0)[0]) == 14)

        fresh.client.resume(sandbox_id)

        answers = [connection.recv(12) for connection in waiting]

    assert answers.count(b"HTTP/1.1 503") == 14
    assert answers.count(b"HTTP/1.1 502") == 56  # nothing listens on the port
    assert wait_until(lambda: fresh.request("GET", f"/{path}/", headers=found["headers"]).status_code == 502)
    fresh.client.delete_sandbox(sandbox_id)
