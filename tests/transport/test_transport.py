"""Requests: what is sent, over which connection, and by which proxy and certificates."""

import ssl
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
import trustme

from pytest_opensandbox.errors import ApiError, ConfigError, TransportError
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.timeouts import Timeouts
from pytest_opensandbox.transport.transport import KEY_HEADER, Transport
from tests.forks import FORKS, in_a_fork
from tests.scripted_servers import Reply, Server, as_json, serving, unused_port

KEY = "k3y-that-no-message-may-show"
NO_CONTENT = Reply(204)


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


def test_localhost_is_resolved_to_127_0_0_1():
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
def test_another_host_is_reached_through_a_trusted_environments_proxy(monkeypatch, trust_env):
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
    """A certificate authority that no system trusts."""
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
def test_a_named_private_authority_is_trusted_on_this_machine_too(monkeypatch, private_server, bundle, by_environment):
    if by_environment:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    transport = Transport(private_server.url, ca_bundle=None if by_environment else bundle)

    assert transport.request("GET", "/x").status == 204


def test_a_certificate_of_an_unknown_authority_is_refused_with_advice(private_server, bundle):
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


def test_the_clock_is_that_of_the_server_and_not_of_a_sandbox():
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
