"""The server of a run: started or reached on demand, asked once, closed as often as needed."""

import json
import re
import sys

import pytest

from pytest_opensandbox import (
    ApiError,
    AuthError,
    OpenSandboxWarning,
    ServerStartError,
    TransportError,
)
from pytest_opensandbox.plugin.server import RunServer
from pytest_opensandbox.settings.settings import read_settings
from tests.scripted_servers import as_json, serving


def server_for(url, *, environ=None):
    return RunServer(read_settings(flags={"url": url}, environ=environ or {}, inis={}))


def test_one_client_is_created_and_asks_once_whether_the_server_responds():
    with serving(as_json({"status": "healthy"})) as server:
        found = server_for(server.url)

        first, second = found.client(), found.client()

    found.close()
    assert first is second
    assert [request.path for request in server.seen] == ["/health"]


def test_a_server_without_the_health_route_is_a_server():
    with serving(as_json({"detail": "Not Found"}, status=404)) as server:
        found = server_for(server.url)

        assert found.client() is not None

    found.close()


@pytest.mark.parametrize(("url", "owns"), [("embedded", True), ("docker", False), ("http://127.0.0.1:1", False)])
def test_only_embedded_is_a_server_for_each_process(url, owns):
    assert server_for(url).owns_server is owns


def test_closing_stops_the_server_that_is_ours_and_may_be_repeated():
    found = server_for("embedded")
    client = found.client()
    assert client.list_sandboxes() == []

    found.close()
    found.close()

    with pytest.raises(TransportError):
        client.list_sandboxes()


def test_what_was_refused_once_is_not_tried_again():
    found = server_for("http://127.0.0.1:1")

    error = found.refuse(TransportError("refused", method="POST", url="http://127.0.0.1:1"))

    assert "--opensandbox-url" in str(error)
    with pytest.raises(ServerStartError, match=r"see its first error: refused \(POST http://127.0.0.1:1\)$"):
        found.client()


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        pytest.param({"flags": {"url": "docker"}}, "--opensandbox-url=docker", id="flag"),
        pytest.param({"environ": {"OPEN_SANDBOX_DOMAIN": "docker"}}, "OPEN_SANDBOX_DOMAIN=docker", id="variable"),
        pytest.param({"inis": {"url": "docker"}}, "opensandbox_url=docker", id="ini key"),
        pytest.param({}, "embedded, which stands where no url is given,", id="default"),
    ],
)
def test_a_server_that_does_not_start_is_blamed_on_what_asked_for_it(monkeypatch, given, choice):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    found = RunServer(read_settings(**{"flags": {}, "environ": {}, "inis": {}, **given}))

    with pytest.raises(ServerStartError, match=f"^{re.escape(choice)} cannot work here: /no/such/python could not be"):
        found.client()


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        pytest.param({}, "it is not set", id="no key"),
        pytest.param({"OPEN_SANDBOX_API_KEY": "hunter2"}, "the key that it holds is none", id="a wrong key"),
    ],
)
def test_a_refused_key_is_told_from_a_missing_one(environ, hint):
    error = server_for("http://127.0.0.1:1", environ=environ).refuse(AuthError(401))

    assert hint in str(error)
    assert "hunter2" not in str(error)


PULL_FAILED = {"status": 500, "code": "DOCKER::SANDBOX_IMAGE_PULL_FAILED", "method": "POST", "url": "http://here"}


def pull_failed(image):
    message = f"Failed to pull image {image}: no host"
    return ApiError(500, code="DOCKER::SANDBOX_IMAGE_PULL_FAILED", message=message, method="POST", url="http://here")


def test_without_the_agents_image_no_sandbox_can_be_had():
    found = server_for("docker")

    error = found.explain(pull_failed("opensandbox/execd:v1"), is_first=False, is_final=True)

    assert isinstance(error, ServerStartError)
    assert found.is_refused
    assert "Does `docker pull opensandbox/execd:v1` work" in str(error)
    assert "--opensandbox-execd-image" in str(error)


@pytest.mark.parametrize("url", ["embedded", "http://127.0.0.1:1"])
def test_only_a_server_on_docker_is_shared_with_workers(url):
    assert server_for(url).for_workers() == {}


def test_a_worker_reads_url_and_key_from_its_controllers_file(tmp_path):
    with serving(as_json({"items": [], "pagination": {}})) as server:
        file = tmp_path / "server.json"
        file.write_text(json.dumps({"url": server.url, "api_key": "hunter2"}))
        found = RunServer(read_settings(flags={"url": "docker"}, environ={}, inis={}), server={"file": str(file)})

        found.client().list_sandboxes()

        assert server.seen[0].headers["OPEN-SANDBOX-API-KEY"] == "hunter2"
        found.close()


def test_a_worker_whose_controller_has_gone_says_so(tmp_path):
    settings = read_settings(flags={"url": "docker"}, environ={}, inis={})

    with pytest.raises(ServerStartError, match="the server that this run's controller started has gone"):
        RunServer(settings, server={"file": str(tmp_path / "none.json")}).client()


def test_a_worker_that_was_handed_a_refusal_starts_nothing():
    settings = read_settings(flags={"url": "docker"}, environ={}, inis={})

    with pytest.raises(ServerStartError, match=r"see the summary: no engine$"):
        RunServer(settings, server={"refusal": "no engine"}).client()


def test_what_the_embedded_server_cannot_do_here_is_a_warning(monkeypatch, tmp_path):
    # An old bubblewrap knows no overlays: system directories become read-only; a server's log is not read.
    old = tmp_path / "sitecustomize.py"
    old.write_text(
        "import pytest_opensandbox.embedded.runtime.bubblewrap\n"
        "pytest_opensandbox.embedded.runtime.bubblewrap._copied_system = lambda *_, **__: ['--overlay-of-tomorrow']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    found = server_for("embedded")

    with pytest.warns(OpenSandboxWarning, match="refuses overlays"):
        found.client()

    found.close()
