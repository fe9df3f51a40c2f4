"""What a server says of the way to a sandbox is read, carried along, and not shown."""

import copy
import pickle

import pytest

from pytest_opensandbox import Client, Endpoint, ProtocolError
from pytest_opensandbox.client.models import EXECD_PORT
from pytest_opensandbox.transport.endpoints import read_endpoint
from tests.scripted_servers import Reply, as_json, serving

TOKEN = "t0ken-that-nobody-may-see"
BOX = "75180da3-7dcb-4e06-8e5e-aeeb75dd4a46"


def read(endpoint: str, headers=None, *, root: str = "https://api.example.org", port: int = 8000, **how) -> Endpoint:
    return read_endpoint({"endpoint": endpoint, "headers": headers}, sandbox_id=BOX, port=port, root=root, **how)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        pytest.param("gateway.example.org", "https://gateway.example.org", id="gateway by header"),
        pytest.param(f"gw.example.org/x/{BOX}/8000", f"https://gw.example.org/x/{BOX}/8000", id="gateway by path"),
        pytest.param(f"{BOX}-8000.boxes.example.org", f"https://{BOX}-8000.boxes.example.org", id="gateway by host"),
        pytest.param("10.1.2.3:8000", "https://10.1.2.3:8000", id="pod"),
        pytest.param("http://gateway:8080/", "http://gateway:8080", id="with a scheme of its own"),
    ],
)
def test_an_address_gets_the_servers_scheme_unless_it_has_one(address, url):
    assert read(address).url == url


def test_a_host_without_a_port_has_that_of_its_scheme():
    assert [read("gateway", root=f"{scheme}://api").port for scheme in ("http", "https")] == [80, 443]


def test_headers_are_carried_and_not_shown():
    endpoint = read("gateway", {"OpenSandbox-Ingress-To": f"{BOX}-8000", "OpenSandbox-Secure-Access": TOKEN})

    assert endpoint.headers["OpenSandbox-Secure-Access"] == TOKEN
    assert TOKEN not in repr(endpoint) + repr(endpoint.headers) + repr(vars(endpoint))
    assert repr(endpoint) == "<Endpoint https://gateway with OpenSandbox-Ingress-To, OpenSandbox-Secure-Access>"
    assert TOKEN in endpoint.secrets
    assert f"{BOX}-8000" not in endpoint.secrets


def test_a_secret_in_the_path_is_not_shown():
    endpoint = read(f"127.0.0.1:1/{TOKEN}/proxy/8000", {"X-Token": TOKEN})

    assert TOKEN in endpoint.url
    assert TOKEN not in repr(endpoint) + repr(endpoint.url) + repr(vars(endpoint))
    assert repr(endpoint) == "<Endpoint https://127.0.0.1:1/***/proxy/8000 with X-Token>"


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        pytest.param(f"{BOX}-8000-tgabcd-0123abcdk.boxes.example.org", None, id="host"),
        pytest.param(f"gateway/{BOX}/8000/tgabcd/0123abcdk", None, id="path"),
        pytest.param("gateway", {"OpenSandbox-Ingress-To": f"{BOX}-8000-tgabcd-0123abcdk"}, id="header"),
    ],
)
def test_the_signature_of_an_address_is_found_and_not_shown(address, headers):
    endpoint = read(address, headers)

    assert endpoint.signature == "0123abcdk"
    assert "0123abcdk" not in repr(endpoint) + repr(vars(endpoint))


def test_an_address_without_a_signature_has_none():
    assert read(f"gateway/{BOX}/8000", {"OpenSandbox-Ingress-To": f"{BOX}-8000"}).signature == ""


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
        client.get_endpoint(BOX, 8000)

    assert "endpoint must" in str(caught.value) or "headers of an endpoint" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_half_an_answer_is_refused_without_being_shown():
    half = Reply(200, b'{"endpoint": "gateway", "headers": {"X-Token": "' + TOKEN.encode())
    with serving(half) as server, Client(server.url) as client, pytest.raises(ProtocolError, match="JSON") as caught:
        client.discover_execd(BOX)

    assert TOKEN not in str(caught.value)


def test_a_signed_address_is_asked_for_by_the_servers_clock():
    head = {"Date": "Wed, 21 Oct 2105 07:28:00 GMT"}
    answer = as_json({"endpoint": "gateway"}, **head)
    with serving(answer, answer) as server, Client(server.url) as client:
        client.discover_execd(BOX)
        client.get_endpoint(BOX, 8000, signed_for=60)

    ((name, moment),) = server.seen[1].query
    assert name == "expires"
    assert 0 <= int(moment) - 4285553280 - 60 <= 5


def test_the_agents_port_is_not_signed():
    with serving(as_json({"endpoint": "gateway"})) as server, Client(server.url) as client:
        client.discover_execd(BOX)

    assert server.seen[0].path.endswith(f"/endpoints/{EXECD_PORT}")
    assert server.seen[0].query == []
