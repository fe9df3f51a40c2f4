"""The way to the server: opened on demand, found out once, closed as often as anybody likes."""

import pytest

from pytest_opensandbox import AuthError, ServerStartError, TransportError
from pytest_opensandbox.config import read_settings
from pytest_opensandbox.connection import Connection


def connection(url, *, environ=None):
    return Connection(read_settings(flags={"url": url}, environ=environ or {}, inis={}))


def test_a_client_for_a_named_server_is_made_once_and_contacts_nobody():
    found = connection("http://127.0.0.1:1")

    first, second = found.client(), found.client()

    assert first is second
    found.close()


@pytest.mark.parametrize(("url", "owns"), [("embedded", True), ("docker", True), ("http://127.0.0.1:1", False)])
def test_only_a_named_server_is_somebody_elses(url, owns):
    assert connection(url).owns_server is owns


def test_closing_stops_the_server_that_is_ours_and_may_be_repeated():
    found = connection("embedded")
    client = found.client()
    assert client.list_sandboxes() == []

    found.close()
    found.close()

    with pytest.raises(TransportError):
        client.list_sandboxes()


def test_what_was_refused_once_is_not_tried_again():
    found = connection("http://127.0.0.1:1")

    error = found.refuse(TransportError("refused", method="POST", url="http://127.0.0.1:1"))

    assert "--opensandbox-url" in str(error)
    with pytest.raises(ServerStartError, match=r"see its first error: POST http://127.0.0.1:1: refused$"):
        found.client()


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        pytest.param({}, "it is not set", id="no key"),
        pytest.param({"OPEN_SANDBOX_API_KEY": "hunter2"}, "the key that it holds", id="a wrong key"),
    ],
)
def test_a_refused_key_is_told_from_a_missing_one(environ, hint):
    error = connection("http://127.0.0.1:1", environ=environ).refuse(AuthError(401))

    assert hint in str(error)
    assert "hunter2" not in str(error)


def test_docker_is_refused_until_it_is_there():
    with pytest.raises(ServerStartError, match="not available in this version"):
        connection("docker").client()
