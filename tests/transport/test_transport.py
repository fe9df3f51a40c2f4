"""The one room that speaks HTTP: what it sends, whom it trusts, and what becomes of trouble."""

import logging
import pickle
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
import trustme

from pytest_opensandbox.errors import ApiError, ConfigError, ProtocolError, TransportError
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.timeouts import Timeouts
from pytest_opensandbox.transport.transport import KEY_HEADER, Transport
from tests.forks import FORKS, in_a_fork
from tests.scripted_servers import Reply, Server, as_json, serving

KEY = "k3y-that-nobody-may-see"
TOKEN = "t0ken-that-nobody-may-see"
NO_CONTENT = Reply(204)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_path_goes_below_v1_of_the_server_with_the_key():
    with serving(as_json({"a": 1})) as server:
        answer = Transport(server.url, KEY).request("GET", "/sandboxes", params=[("state", "A"), ("state", "B")])

        assert answer.json() == {"a": 1}
    (seen,) = server.seen
    assert (seen.path, seen.query) == ("/v1/sandboxes", [("state", "A"), ("state", "B")])
    assert seen.headers[KEY_HEADER] == KEY


def test_every_request_refuses_compression_and_carries_no_credentials(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    with serving(NO_CONTENT) as server:
        Transport(server.url).request("GET", "/x").read()

    headers = server.seen[0].headers
    assert headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in headers
    assert KEY_HEADER not in headers


def test_localhost_is_spoken_as_127_0_0_1():
    with serving(NO_CONTENT) as server:
        Transport(f"http://localhost:{server.port}").request("GET", "/x").read()

    assert server.seen[0].headers["Host"] == f"127.0.0.1:{server.port}"


def test_loopback_is_reached_without_the_environments_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.delenv("no_proxy", raising=False)

    with serving(NO_CONTENT) as server:
        answer = Transport(server.url).request("GET", "/x")

    assert answer.status == 204


@pytest.mark.parametrize("trust_env", [True, False])
def test_another_host_is_reached_through_the_environments_proxy_if_that_is_trusted(monkeypatch, trust_env):
    with serving(NO_CONTENT) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        transport = Transport("http://opensandbox.invalid", trust_env=trust_env, timeouts=Timeouts(connect_seconds=1))

        if trust_env:
            assert transport.request("GET", "/x").status == 204
        else:
            with pytest.raises(TransportError):
                transport.request("GET", "/x")

    assert len(proxy.seen) == trust_env


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that nobody but us knows."""
    return trustme.CA()


@pytest.fixture
def private_server(authority):
    """A server whose certificate comes from that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(server=Server([NO_CONTENT], tls=context)) as server:
        yield server


@pytest.fixture
def bundle(authority, tmp_path, monkeypatch):
    """The file with that authority's certificate; the environment names none."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("by_environment", [True, False], ids=["REQUESTS_CA_BUNDLE", "an argument"])
def test_a_private_authority_is_trusted_where_it_is_named_also_on_this_machine(
    monkeypatch, private_server, bundle, by_environment
):
    if by_environment:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    transport = Transport(private_server.url, ca_bundle=None if by_environment else bundle)

    assert transport.request("GET", "/x").status == 204


def test_a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do(private_server, bundle):
    with pytest.raises(TransportError, match="is not trusted") as caught:
        Transport(private_server.url).request("GET", "/x")

    assert "--opensandbox-ca-bundle or REQUESTS_CA_BUNDLE" in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer_is_told_from_a_server_that_does_not(monkeypatch, scheme):
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:secret@127.0.0.1:{unused_port()}")
    monkeypatch.delenv("no_proxy", raising=False)

    with pytest.raises(TransportError, match="the environment's HTTP proxy failed") as caught:
        Transport(f"{scheme}://opensandbox.invalid").request("GET", "/x")

    assert "NO_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_redirect_is_an_error_and_is_not_followed():
    with (
        serving(Reply(302, headers={"Location": "http://127.0.0.1:1/elsewhere"})) as server,
        pytest.raises(ApiError, match=r"redirects are not followed.*elsewhere.*302"),
    ):
        Transport(server.url, KEY).request("GET", "/x")

    assert len(server.seen) == 1


def test_a_cookie_of_one_sandbox_is_not_sent_to_another():
    set_cookie = Reply(200, headers={"Set-Cookie": "a=b; Path=/"})
    with serving(set_cookie, NO_CONTENT) as first, serving(NO_CONTENT) as second:
        transport = Transport(first.url)
        for url in (first.url, second.url, first.url):
            transport.request("GET", url).read()

    assert not any("Cookie" in seen.headers for seen in [*first.seen, *second.seen])


def test_a_second_request_uses_the_same_connection():
    with serving(
        as_json([1]), NO_CONTENT, Reply(404, b"x"), Reply(200, [b"a", b"b"], framing="chunked"), NO_CONTENT
    ) as server:
        transport = Transport(server.url)
        for _ in range(5):
            try:
                transport.request("GET", "/x").read()
            except ApiError:
                continue

    assert len({seen.connection for seen in server.seen}) == 1


@FORKS
def test_a_fork_has_connections_of_its_own():
    """On those of its parent each of them would read answers that are the other's."""
    with serving(NO_CONTENT, NO_CONTENT, NO_CONTENT) as server:
        transport = Transport(server.url)

        def ask():
            transport.request("GET", "/x").read()

        ask()
        went_well = in_a_fork(ask)
        ask()

    first, of_fork, second = (seen.connection for seen in server.seen)
    assert went_well
    assert first == second != of_fork


def test_a_kept_connection_that_died_is_replaced_for_a_get():
    with serving(NO_CONTENT, Reply(drop="before"), as_json("again")) as server:
        transport = Transport(server.url)
        transport.request("GET", "/x").read()

        assert transport.request("GET", "/x").json() == "again"


def test_a_post_is_never_sent_twice():
    with (
        serving(Reply(drop="before"), NO_CONTENT) as server,
        pytest.raises(TransportError, match="closed without a response"),
    ):
        Transport(server.url).request("POST", "/sandboxes", json={})

    assert len(server.seen) == 1


def test_nobody_listening_is_a_transport_error_that_says_so():
    url = f"http://127.0.0.1:{unused_port()}"

    with pytest.raises(TransportError, match="connection refused") as caught:
        Transport(url).request("GET", "/x")

    assert (caught.value.method, caught.value.url, caught.value.timed_out) == ("GET", f"{url}/v1/x", False)


def test_silence_is_a_transport_error_that_says_how_long():
    held = threading.Event()
    with serving(Reply(200, [held], framing="close")) as server:
        with pytest.raises(TransportError, match=r"no byte within 0\.2 s") as caught:
            Transport(server.url, timeouts=Timeouts(request_seconds=0.2)).request("GET", "/x").read()
        held.set()

    assert caught.value.timed_out


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_breaks_off_is_a_transport_error(framing):
    reply = Reply(200, b"half", framing=framing, promised=8, drop="after")
    with serving(reply) as server, pytest.raises(TransportError):
        Transport(server.url).request("GET", "/x").read()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_bytes_are_handed_on_as_they_arrive(framing):
    held = threading.Event()
    with serving(Reply(200, [b"first", held, b"second"], framing=framing)) as server:
        chunks = Transport(server.url).request("GET", "/x").chunks()

        first = next(chunks)
        held.set()
        rest = b"".join(chunks)

    assert (first, rest) == (b"first", b"second")


def test_an_error_that_never_ends_is_read_no_further_than_needed():
    held = threading.Event()
    with serving(Reply(500, [b"x" * 100_000, held], framing="chunked")) as server:
        with pytest.raises(ApiError, match="xxx"):
            Transport(server.url).request("GET", "/x")
        held.set()


def test_an_error_whose_body_breaks_off_is_still_that_error():
    with serving(Reply(404, b'{"code"', promised=500, drop="after")) as server, pytest.raises(ApiError, match="404"):
        Transport(server.url).request("GET", "/x")


# execd promises 2**63 - 1 bytes of a directory; a create would wait five minutes for the rest of its error.
def test_an_error_whose_text_does_not_come_is_not_waited_for():
    held = threading.Event()
    with serving(Reply(500, [b"beginning", held], promised=2**63 - 1)) as server:
        with pytest.raises(ApiError, match=r"beginning \(500"):
            Transport(server.url, timeouts=Timeouts(request_seconds=300, error_body_seconds=0.2)).request("GET", "/x")
        held.set()


def test_an_answer_that_is_too_long_is_refused():
    with serving(Reply(200, b"x" * 200_000)) as server, pytest.raises(ProtocolError, match="100,000"):
        Transport(server.url).request("GET", "/x").read(max_bytes=100_000)


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"{", b"[" * 200_000])
def test_a_success_that_is_no_json_is_a_protocol_error(body):
    with serving(Reply(200, body)) as server, pytest.raises(ProtocolError, match="must be JSON"):
        Transport(server.url).request("GET", "/x").json()


def test_an_empty_success_is_none():
    with serving(Reply(200)) as server:
        assert Transport(server.url).request("POST", "/x").json() is None


def test_a_header_that_cannot_be_sent_is_a_transport_error():
    with serving() as server, pytest.raises(TransportError):
        Transport(server.url).ask(Endpoint(server.url, {"X-Bad": "a\r\nY: b"}), "GET", "/x")


def test_an_endpoints_headers_go_with_every_request_and_its_path_is_kept():
    with serving(NO_CONTENT) as server:
        endpoint = Endpoint(f"{server.url}/proxy/44772", {"OpenSandbox-Ingress-To": "id-44772"})
        Transport("http://127.0.0.1:1", KEY).ask(endpoint, "GET", "/ping").read()

    assert server.seen[0].path == "/proxy/44772/ping"
    assert server.seen[0].headers["OpenSandbox-Ingress-To"] == "id-44772"


def test_a_plain_url_is_an_endpoint_whatever_its_path():
    with serving(NO_CONTENT) as server:
        Transport("http://127.0.0.1:1", KEY).ask(f"{server.url}/proxy/v1/", "GET", "/ping").read()

    assert server.seen[0].path == "/proxy/v1/ping"


@pytest.mark.parametrize("url", ["127.0.0.1:80", "http://u:p@h", ""])
def test_a_plain_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="url"):
        Transport("http://127.0.0.1:1").ask(url, "GET", "/ping")


def test_the_key_goes_to_the_servers_own_proxy_and_never_to_a_sandbox():
    with serving(NO_CONTENT) as server, serving(NO_CONTENT) as sandbox:
        transport = Transport(server.url, KEY)
        transport.ask(Endpoint(f"{server.url}/v1/sandboxes/i/proxy/44772"), "GET", "/ping").read()
        transport.ask(Endpoint(f"{sandbox.url}/v1/sandboxes/i/proxy/44772"), "GET", "/ping").read()

    assert server.seen[0].headers[KEY_HEADER] == KEY
    assert KEY_HEADER not in sandbox.seen[0].headers


def test_the_servers_clock_is_learnt_from_the_server_and_not_from_a_sandbox():
    hour = 3600
    with serving(Reply(204, headers={"Date": formatdate(0, usegmt=True)})) as server:
        transport = Transport(server.url)
        local = transport.server_time()

        transport.request("GET", f"{server.url}/from-a-sandbox").read()

        assert abs(transport.server_time() - local) < hour
    with serving(Reply(204, headers={"Date": formatdate(local + 24 * hour, usegmt=True)})) as server:
        transport = Transport(server.url)

        transport.request("GET", "/from-the-server").read()

        assert transport.server_time() - local > 23 * hour


def test_many_threads_can_use_one_transport():
    with serving(*[as_json(number) for number in range(200)]) as server:
        transport = Transport(server.url)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: transport.request("GET", "/x").json(), range(200)))

    assert sorted(answers) == list(range(200))


@pytest.mark.parametrize(
    ("url", "key"), [("nonsense", KEY), ("http://h", f"{KEY}\n"), ("http://u:p@h", KEY)], ids=["url", "key", "userinfo"]
)
def test_what_cannot_be_used_is_refused_at_once_without_showing_the_key(url, key):
    with pytest.raises(ConfigError) as caught:
        Transport(url, key)

    assert KEY not in str(caught.value)


def test_the_key_is_in_no_repr_pickle_or_log(caplog):
    caplog.set_level(logging.DEBUG)
    with serving(NO_CONTENT, Reply(drop="before")) as server:
        transport = Transport(server.url, KEY)
        transport.request("GET", "/x").read()

        with pytest.raises(TypeError, match="key"):
            pickle.dumps(transport)

    assert KEY not in repr(transport) + repr(vars(transport)) + caplog.text


@pytest.mark.parametrize("shape", ['{"code":"%s","message":"%s is wrong"}', "%s %s"], ids=["json", "text"])
def test_a_server_that_echoes_the_key_does_not_get_it_into_an_error(shape):
    reply = Reply(401, (shape % (KEY, KEY)).encode(), {"X-Request-ID": KEY, "Location": KEY})
    with serving(reply) as server, pytest.raises(ApiError) as caught:
        Transport(server.url, KEY).request("GET", "/x")

    assert KEY not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize("shape", ['{"code":"%s","message":"%s is wrong"}', "%s %s"], ids=["json", "text"])
def test_a_gateway_that_echoes_a_token_does_not_get_it_into_an_error(shape):
    reply = Reply(401, (shape % (TOKEN, TOKEN)).encode(), {"X-Request-ID": TOKEN})
    with serving(reply) as server:
        endpoint = Endpoint(f"{server.url}/x/{TOKEN}", {"X-Token": TOKEN}, signature=TOKEN)
        with pytest.raises(ApiError) as caught:
            Transport(server.url).ask(endpoint, "GET", "/x")

    assert TOKEN not in str(caught.value) + repr(vars(caught.value))
    assert f"{server.url}/x/***/x" in str(caught.value)


def test_an_address_that_is_a_secret_is_in_no_error():
    endpoint = Endpoint(f"http://127.0.0.1:{unused_port()}/{TOKEN}", signature=TOKEN)

    with pytest.raises(TransportError) as caught:
        Transport("http://127.0.0.1").ask(endpoint, "GET", "/x")

    assert TOKEN not in str(caught.value) + repr(vars(caught.value))


@pytest.mark.parametrize(
    ("url", "unsent"),
    [
        pytest.param("http://127.0.0.1:{unused}", True, id="refused"),
        pytest.param("http://no-such-host.invalid", True, id="no such host"),
        pytest.param("http://127.0.0.1:{dropping}", False, id="closed without a response"),
        pytest.param("http://127.0.0.1:{silent}", False, id="no answer"),
    ],
)
def test_an_error_says_whether_anything_can_have_been_sent(url, unsent):
    held = threading.Event()
    with serving(Reply(drop="before")) as dropping, serving(Reply(200, [held], framing="close")) as silent:
        url = url.format(unused=unused_port(), dropping=dropping.port, silent=silent.port)
        with pytest.raises(TransportError) as caught:
            Transport("http://127.0.0.1", trust_env=False).request("POST", url, timeout=(5, 0.2)).read()
        held.set()

    assert caught.value.unsent is unsent


def test_a_second_try_does_not_forget_that_the_first_was_sent():
    """A kept connection closes with the request on it, and after that the server refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = Transport(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_answer_once_and_go, args=(listener,))
        thread.start()
        transport.request("GET", "/x").read()

        with pytest.raises(TransportError, match="connection refused") as caught:
            transport.request("DELETE", "/x")
        thread.join()

    assert not caught.value.unsent


def _answer_once_and_go(listener):
    with listener.accept()[0] as connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        connection.recv(65_536)
        listener.close()


TEST_THAT_FAILS = """
from pytest_opensandbox.transport.transport import Transport
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.transport.endpoints import Endpoint
import os
import pytest

def test_refused():
    Client("http://127.0.0.1:1", os.environ["KEY"]).list_sandboxes()

def test_bad_url():
    Client("nonsense", os.environ["KEY"])

def test_wrong():
    Client(os.environ["URL"], os.environ["KEY"]).get_sandbox("x")

def test_broken():
    Client(os.environ["URL"], os.environ["KEY"]).get_sandbox("x")

def test_gateway(gateway):
    Client(os.environ["URL"]).run_command(gateway, "true")

@pytest.fixture
def gateway():
    token = os.environ["TOKEN"]
    return Endpoint(f"http://127.0.0.1:1/{token}", {"X-Token": token}, signature=token)
"""


# The HTTP libraries keep the request, key and all, in their frames' variables, and -l prints the variables of frames.
def test_pytest_with_showlocals_prints_neither_the_key_nor_a_token(tmp_path):
    (tmp_path / "test_it.py").write_text(TEST_THAT_FAILS)
    root = Path(__file__).parents[2]
    with serving(Reply(401, b"{}"), *[Reply(drop="before")] * 8) as server:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-l",
                "-vv",
                "--tb=long",
                "--fulltrace",
                "-p",
                "no:cacheprovider",
                str(tmp_path),
            ],
            env={
                "PYTHONPATH": str(root),
                "KEY": KEY,
                "TOKEN": TOKEN,
                "URL": server.url,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "5 failed" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
