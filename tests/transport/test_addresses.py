"""URLs: what is taken for a server, what for an endpoint, and which endpoint may see the key."""

import pytest

from pytest_opensandbox.errors import ConfigError, ProtocolError
from pytest_opensandbox.transport.addresses import (
    endpoint_url,
    is_loopback,
    is_own_proxy,
    own_proxy_url,
    path_segment,
    server_root,
    spoken,
    without_secrets,
)


@pytest.mark.parametrize(
    ("given", "root"),
    [
        pytest.param("http://h:8080", "http://h:8080", id="bare"),
        pytest.param("http://h:8080/", "http://h:8080", id="slash"),
        pytest.param("http://h:8080/v1", "http://h:8080", id="with v1"),
        pytest.param("http://h:8080/v1/", "http://h:8080", id="with v1 and a slash"),
        pytest.param("https://h/api/box/v1", "https://h/api/box", id="mounted below a path"),
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
def test_what_is_no_server_is_refused_with_the_rule_and_without_the_password(given, rule):
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


ROOT = "http://api.example.org/box"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/44772", id="below v1"),
        pytest.param(f"{ROOT}/sandboxes/abc/proxy/44772", id="below the root"),
        pytest.param(f"{ROOT}/v1/sandboxes/abc/proxy/8000/deep/path", id="deep"),
        pytest.param("http://API.example.org:80/box/v1/sandboxes/abc/proxy/1", id="the same origin, written otherwise"),
    ],
)
def test_the_servers_own_proxy_may_see_the_key(url):
    assert is_own_proxy(url, ROOT)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://api.example.org:43350/proxy/44772", id="a sandbox's own port"),
        pytest.param("http://api.example.org:8080/box/v1/sandboxes/abc/proxy/44772", id="another port"),
        pytest.param("https://api.example.org/box/v1/sandboxes/abc/proxy/44772", id="another scheme"),
        pytest.param("http://evil.example.org/box/v1/sandboxes/abc/proxy/44772", id="another host"),
        pytest.param("http://api.example.org.evil.com/box/v1/sandboxes/abc/proxy/1", id="a host that begins the same"),
        pytest.param("http://api.example.org@evil.com/box/v1/sandboxes/abc/proxy/1", id="the host as a user name"),
        pytest.param("http://api.example.org/other/v1/sandboxes/abc/proxy/44772", id="not below the base"),
        pytest.param("http://api.example.org/boxes/v1/sandboxes/abc/proxy/44772", id="a path that begins the same"),
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
    assert spoken(url) == expected


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
        pytest.param("http://198.51.100.7/sandboxes/i/proxy/80", "http://h:1/box/v1/sandboxes/i/proxy/80", id="eip"),
        pytest.param("http://h:1/v1/sandboxes/i/proxy/80", "http://h:1/box/v1/sandboxes/i/proxy/80", id="no prefix"),
        pytest.param("http://h:1/proxy/80", "http://h:1/proxy/80", id="the agent's own proxy"),
        pytest.param("http://h:1/sandboxes/i/proxy/80/x", "http://h:1/sandboxes/i/proxy/80/x", id="something below"),
    ],
)
def test_an_endpoint_in_the_servers_proxy_is_reached_where_the_server_is(url, found):
    assert own_proxy_url(url, "http://h:1/box") == found


def test_what_opens_an_endpoint_in_the_servers_proxy_stays_in_its_path():
    url = "http://192.0.2.1:1/s3cret/v1/sandboxes/i/proxy/80"

    assert own_proxy_url(url, "http://h:1", opened_by=["s3cret"]) == "http://h:1/s3cret/v1/sandboxes/i/proxy/80"
    assert own_proxy_url(url, "http://h:1", opened_by=["another"]) == "http://h:1/v1/sandboxes/i/proxy/80"
