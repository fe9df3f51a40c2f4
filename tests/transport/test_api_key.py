"""The key: usable as a header, and shown by no message, repr, log or traceback."""

import copy
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_opensandbox.errors import ApiError, ConfigError, TransportError
from pytest_opensandbox.text import MaskedText, redacted
from pytest_opensandbox.transport.api_key import masked
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.transport import KEY_HEADER, Transport
from tests.scripted_servers import Reply, serving, unused_port

KEY = "k3y-that-no-message-may-show"
TOKEN = "t0ken-that-no-message-may-show"
NO_CONTENT = Reply(204)


def test_a_key_is_text_that_its_repr_hides():
    key = masked("s3cret")

    assert key.encode("ascii") == b"s3cret"
    assert "s3cret" not in repr(key)
    assert "s3cret" not in repr({"OPEN-SANDBOX-API-KEY": key})


@pytest.mark.parametrize("key", ["s3cret\nb", "s3cret\r\nX: y", "s3crét", " s3cret", "s3cret ", "s3cret\0"])
def test_what_cannot_stand_in_a_header_is_refused_without_being_shown(key):
    with pytest.raises(ConfigError, match="api_key") as caught:
        masked(key)

    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_an_empty_one(key):
    assert masked(key) == ""


@pytest.mark.parametrize("carry", [pickle.dumps, copy.deepcopy])
def test_a_key_is_not_pickled(carry):
    with pytest.raises(TypeError, match="pickled"):
        carry(masked("s3cret"))


def test_a_key_that_comes_back_is_replaced():
    assert masked("s3cret").redact("key s3cret is wrong") == "key *** is wrong"
    assert masked(None).redact("text") == "text"


def test_text_is_redacted_by_the_longest_secret_first_and_short_ones_stay():
    assert redacted("abcdef-1 abcdef ab", ["abcdef", "abcdef-1", "ab"]) == "*** *** ab"


@pytest.mark.parametrize(
    "carry", [lambda text: pickle.loads(pickle.dumps(text)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_masked_text_stays_masked_when_it_is_carried(carry):
    assert carry(MaskedText("s3cret")) == "s3cret"
    assert repr(carry(MaskedText("s3cret"))) == "'***'"


def test_the_key_goes_to_the_servers_own_proxy_and_never_to_a_sandbox():
    with serving(NO_CONTENT) as server, serving(NO_CONTENT) as sandbox:
        transport = Transport(server.url, KEY)
        transport.ask(Endpoint(f"{server.url}/v1/sandboxes/i/proxy/44772"), "GET", "/ping").read()
        transport.ask(Endpoint(f"{sandbox.url}/v1/sandboxes/i/proxy/44772"), "GET", "/ping").read()

    assert server.seen[0].headers[KEY_HEADER] == KEY
    assert KEY_HEADER not in sandbox.seen[0].headers


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
