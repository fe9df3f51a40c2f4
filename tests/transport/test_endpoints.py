"""URLs of servers and endpoints, the headers of endpoints, and who may see the key."""

import copy
import pickle

import pytest

from pytest_opensandbox import Client, ConfigError, Endpoint, ProtocolError
from pytest_opensandbox.client.models import EXECD_PORT
from pytest_opensandbox.transport.endpoints import (
    endpoint_url,
    is_loopback,
    is_own_proxy,
    own_proxy_url,
    path_segment,
    read_endpoint,
    resolve_localhost,
    server_root,
    without_secrets,
)
from tests.scripted_servers import Reply, as_json, serving

TOKEN = "t0ken-that-no-message-may-show"
SANDBOX_ID = "75180da3-7dcb-4e06-8e5e-aeeb75dd4a46"


def read(endpoint: str, headers=None, *, root: str = "https://api.example.org", port: int = 8000, **how) -> Endpoint:
    return read_endpoint({"endpoint": endpoint, "headers": headers}, sandbox_id=SANDBOX_ID, port=port, root=root, **how)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        pytest.param("gateway.example.org", "https://gateway.example.org", id="gateway by header"),
        pytest.param(
            f"gw.example.org/x/{SANDBOX_ID}/8000", f"https://gw.example.org/x/{SANDBOX_ID}/8000", id="gateway by path"
        ),
        pytest.param(
            f"{SANDBOX_ID}-8000.gateway.example.org",
            f"https://{SANDBOX_ID}-8000.gateway.example.org",
            id="gateway by host",
        ),
        pytest.param("10.1.2.3:8000", "https://10.1.2.3:8000", id="pod"),
        pytest.param("http://gateway:8080/", "http://gateway:8080", id="with a scheme of its own"),
    ],
)
def test_an_address_gets_the_servers_scheme_unless_it_has_one(address, url):
    assert read(address).url == url


def test_a_host_without_a_port_has_that_of_its_scheme():
    assert [read("gateway", root=f"{scheme}://api").port for scheme in ("http", "https")] == [80, 443]


def test_headers_are_carried_and_not_shown():
    endpoint = read("gateway", {"OpenSandbox-Ingress-To": f"{SANDBOX_ID}-8000", "OpenSandbox-Secure-Access": TOKEN})

    assert endpoint.headers["OpenSandbox-Secure-Access"] == TOKEN
    assert TOKEN not in repr(endpoint) + repr(endpoint.headers) + repr(vars(endpoint))
    assert repr(endpoint) == "<Endpoint https://gateway with OpenSandbox-Ingress-To, OpenSandbox-Secure-Access>"
    assert TOKEN in endpoint.secrets
    assert f"{SANDBOX_ID}-8000" not in endpoint.secrets


def test_a_secret_in_the_path_is_not_shown():
    endpoint = read(f"127.0.0.1:1/{TOKEN}/proxy/8000", {"X-Token": TOKEN})

    assert TOKEN in endpoint.url
    assert TOKEN not in repr(endpoint) + repr(endpoint.url) + repr(vars(endpoint))
    assert repr(endpoint) == "<Endpoint https://127.0.0.1:1/***/proxy/8000 with X-Token>"


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        pytest.param(f"{SANDBOX_ID}-8000-tgabcd-0123abcdk.gateway.example.org", None, id="host"),
        pytest.param(f"gateway/{SANDBOX_ID}/8000/tgabcd/0123abcdk", None, id="path"),
        pytest.param("gateway", {"OpenSandbox-Ingress-To": f"{SANDBOX_ID}-8000-tgabcd-0123abcdk"}, id="header"),
    ],
)
def test_the_signature_of_an_address_is_found_and_not_shown(address, headers):
    endpoint = read(address, headers)

    assert endpoint.signature == "0123abcdk"
    assert "0123abcdk" not in repr(endpoint) + repr(vars(endpoint))


def test_an_address_without_a_signature_has_none():
    assert read(f"gateway/{SANDBOX_ID}/8000", {"OpenSandbox-Ingress-To": f"{SANDBOX_ID}-8000"}).signature == ""


@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))])
def test_a_copy_of_an_endpoint_works_and_shows_as_little(carry):
    endpoint = carry(read("gateway", {"X-Token": TOKEN}))

    assert endpoint == read("gateway", {"X-Token": TOKEN})
    assert TOKEN not in repr(vars(endpoint))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"headers": {"X-Token": TOKEN}}, id="no address"),
        pytest.param({"endpoint": 1, "headers": {"X-Token": TOKEN}}, id="a number"),
        pytest.param({"endpoint": "gateway", "headers": [TOKEN]}, id="a list of headers"),
        pytest.param({"endpoint": "gateway", "headers": {"X-Token": f"{TOKEN}\r\nX: y"}}, id="two headers in one"),
        pytest.param({"endpoint": "gateway", "headers": {"X Token": TOKEN}}, id="a name with a space"),
        pytest.param({"endpoint": f"user:{TOKEN}@gateway"}, id="a password"),
        pytest.param([TOKEN], id="a list"),
    ],
)
def test_what_is_no_endpoint_is_refused_without_being_shown(body):
    with serving(as_json(body)) as server, Client(server.url) as client, pytest.raises(ProtocolError) as caught:
        client.get_endpoint(SANDBOX_ID, 8000)

    assert "endpoint must" in str(caught.value) or "headers of an endpoint" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_half_an_answer_is_refused_without_being_shown():
    half = Reply(200, b'{"endpoint": "gateway", "headers": {"X-Token": "' + TOKEN.encode())
    with serving(half) as server, Client(server.url) as client, pytest.raises(ProtocolError, match="JSON") as caught:
        client.discover_execd(SANDBOX_ID)

    assert TOKEN not in str(caught.value)


def test_a_signed_address_is_asked_for_by_the_servers_clock():
    head = {"Date": "Wed, 21 Oct 2105 07:28:00 GMT"}
    answer = as_json({"endpoint": "gateway"}, **head)
    with serving(answer, answer) as server, Client(server.url) as client:
        client.discover_execd(SANDBOX_ID)
        client.get_endpoint(SANDBOX_ID, 8000, signed_for=60)

    ((name, moment),) = server.seen[1].query
    assert name == "expires"
    assert 0 <= int(moment) - 4285553280 - 60 <= 5


def test_the_agents_port_is_not_signed():
    with serving(as_json({"endpoint": "gateway"})) as server, Client(server.url) as client:
        client.discover_execd(SANDBOX_ID)

    assert server.seen[0].path.endswith(f"/endpoints/{EXECD_PORT}")
    assert server.seen[0].query == []


@pytest.mark.parametrize(
    ("given", "root"),
    [
        pytest.param("http://h:8080", "http://h:8080", id="bare"),
        pytest.param("http://h:8080/", "http://h:8080", id="slash"),
        pytest.param("http://h:8080/v1", "http://h:8080", id="with v1"),
        pytest.param("http://h:8080/v1/", "http://h:8080", id="with v1 and a slash"),
        pytest.param("https://h/api/base/v1", "https://h/api/base", id="mounted below a path"),
        pytest.param("https://h/api/xv1", "https://h/api/xv1", id="a path that only ends in v1"),
        pytest.param(" http://h ", "http://h", id="white space"),
        pytest.param("http://[::1]:80", "http://[::1]:80", id="IPv6"),
    ],
)
def test_a_server_is_the_same_with_and_without_v1(given, root):
    assert server_root(given) == root


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        pytest.param("localhost:8080", "http://", id="no scheme"),
        pytest.param("ftp://h", "http://", id="another scheme"),
        pytest.param("http://", "host", id="no host"),
        pytest.param("http://h:99999", "port", id="no port"),
        pytest.param("http://u:secret@h", "user name", id="credentials"),
        pytest.param("http://h?x=1", "query", id="query"),
        pytest.param("http://h#x", "fragment", id="fragment"),
    ],
)
def test_an_invalid_server_url_is_refused_without_showing_the_password(given, rule):
    with pytest.raises(ConfigError, match=rule) as caught:
        server_root(given)

    assert caught.value.field == "url"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param("127.0.0.1:43350/proxy/44772", "https://127.0.0.1:43350/proxy/44772", id="path kept"),
        pytest.param("localhost:80", "https://localhost:80", id="a name and a port are no scheme"),
        pytest.param("h/a/", "https://h/a", id="one slash stripped"),
        pytest.param("h/a//", "https://h/a/", id="only one"),
        pytest.param("http://h:1/x", "http://h:1/x", id="scheme kept"),
        pytest.param("id-44772.example.org", "https://id-44772.example.org", id="host alone"),
        pytest.param("[fe80::1]:5/x", "https://[fe80::1]:5/x", id="IPv6"),
    ],
)
def test_an_endpoint_gets_the_servers_scheme_where_it_has_none(text, url):
    assert endpoint_url(text, scheme="https") == url


@pytest.mark.parametrize("text", ["", "/x", "ftp://h", "h:port", "h/x?y", "h#x", "u:pw@h", "h o", "h\nx: y"])
def test_what_is_no_endpoint_is_a_protocol_error(text):
    with pytest.raises(ProtocolError, match="endpoint") as caught:
        endpoint_url(text, scheme="http")

    assert "pw" not in str(caught.value)


ROOT = "http://api.example.org/base"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/44772", id="below v1"),
        pytest.param(f"{ROOT}/sandboxes/abc/proxy/44772", id="below the root"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/8000/deep/path", id="deep"),
        pytest.param(
            "http://API.example.org:80/base/v1/sandboxes/abc/proxy/1", id="the same origin, written otherwise"
        ),
    ],
)
def test_the_servers_own_proxy_may_see_the_key(url):
    assert is_own_proxy(url, ROOT)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://api.example.org:43350/proxy/44772", id="a sandbox's own port"),
        pytest.param("http://api.example.org:8080/base/v1/sandboxes/abc/proxy/44772", id="another port"),
        pytest.param("https://api.example.org/base/v1/sandboxes/abc/proxy/44772", id="another scheme"),
        pytest.param("http://evil.example.org/base/v1/sandboxes/abc/proxy/44772", id="another host"),
        pytest.param(
            "http://api.example.org.evil.example.org/base/v1/sandboxes/abc/proxy/1", id="a host that begins the same"
        ),
        pytest.param(
            "http://api.example.org@evil.example.org/base/v1/sandboxes/abc/proxy/1", id="the host as a user name"
        ),
        pytest.param("http://api.example.org/other/v1/sandboxes/abc/proxy/44772", id="not below the base"),
        pytest.param("http://api.example.org/bases/v1/sandboxes/abc/proxy/44772", id="a path that begins the same"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/endpoints/44772", id="not a proxy"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/x", id="not a port"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/1/../../../../../evil", id="climbing out"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/1/%2e%2E/x", id="climbing out, encoded"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/1/..\\x", id="climbing out, backslash"),
        pytest.param("nonsense", id="no URL"),
    ],
)
def test_no_other_address_may_see_the_key(url):
    assert not is_own_proxy(url, ROOT)


def test_localhost_and_127_0_0_1_are_one_server():
    assert is_own_proxy("http://127.0.0.1:80/sandboxes/a/proxy/1", "http://localhost:80")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://localhost:80/x", "http://127.0.0.1:80/x", id="with a port"),
        pytest.param("http://LocalHost", "http://127.0.0.1", id="alone"),
        pytest.param("https://localhost/x", "https://localhost/x", id="a certificate is made out to the name"),
        pytest.param("http://localhost.example.org/", "http://localhost.example.org/", id="another name"),
    ],
)
def test_localhost_is_spoken_as_ipv4(url, expected):
    assert resolve_localhost(url) == expected


@pytest.mark.parametrize("url", ["http://localhost", "http://a.localhost:1", "http://127.9.9.9", "http://[::1]:5/x"])
def test_loopback_is_recognised(url):
    assert is_loopback(url)


@pytest.mark.parametrize("url", ["http://10.0.0.1", "http://localhost.example.org", "http://127.0.0.1.example.org"])
def test_what_only_looks_like_loopback_is_not(url):
    assert not is_loopback(url)


def test_an_id_stays_one_segment_of_the_path():
    assert path_segment("sandbox_id", "a/../b?c#d é") == "a%2F..%2Fb%3Fc%23d%20%C3%A9"


@pytest.mark.parametrize("value", ["", ".", "..", None])
def test_what_would_change_the_path_is_no_id(value):
    with pytest.raises(ConfigError, match="sandbox_id"):
        path_segment("sandbox_id", value)


def test_a_url_in_a_message_has_no_credentials_and_no_query():
    assert without_secrets("http://user:pw@h:1/x?token=t") == "http://h:1/x"


# The server may write its configured external address, without its port or out of reach from here.
@pytest.mark.parametrize(
    ("url", "found"),
    [
        pytest.param("http://198.51.100.7/sandboxes/i/proxy/80", "http://h:1/base/v1/sandboxes/i/proxy/80", id="eip"),
        pytest.param("http://h:1/v1/sandboxes/i/proxy/80", "http://h:1/base/v1/sandboxes/i/proxy/80", id="no prefix"),
        pytest.param("http://h:1/proxy/80", "http://h:1/proxy/80", id="the agent's own proxy"),
        pytest.param("http://h:1/sandboxes/i/proxy/80/x", "http://h:1/sandboxes/i/proxy/80/x", id="something below"),
    ],
)
def test_an_endpoint_in_the_servers_proxy_is_reached_where_the_server_is(url, found):
    assert own_proxy_url(url, "http://h:1/base") == found


def test_what_opens_an_endpoint_in_the_servers_proxy_stays_in_its_path():
    url = "http://192.0.2.1:1/s3cret/v1/sandboxes/i/proxy/80"

    assert own_proxy_url(url, "http://h:1", opened_by=["s3cret"]) == "http://h:1/s3cret/v1/sandboxes/i/proxy/80"
    assert own_proxy_url(url, "http://h:1", opened_by=["another"]) == "http://h:1/v1/sandboxes/i/proxy/80"
