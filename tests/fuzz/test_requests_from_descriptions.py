"""Whatever is asked of the embedded server and of its agent, the answer is a refusal or a result, and comes in time."""

import pytest
import requests

schemathesis = pytest.importorskip("schemathesis", reason="tox run -e thorough-fuzz has it")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402 - the extra first

from pytest_opensandbox import Client, SandboxOpts  # noqa: E402
from tests.fuzz import descriptions  # noqa: E402

ANSWER_SECONDS = 30
LIFECYCLE = schemathesis.openapi.from_dict(descriptions.lifecycle())
AGENT = schemathesis.openapi.from_dict(descriptions.agent())
# The same requests in each run: a test that fails now and then is of no use to the one whose change it stops.
FUZZ = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server():
    """An embedded server that only this test uses."""
    from pytest_opensandbox.servers.server_process import start_embedded

    with start_embedded() as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url, server.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def endpoint(client):
    """The agent of a sandbox in which anything may happen."""
    sandbox = client.create_sandbox(SandboxOpts(image="host"))
    client.wait_ready(sandbox.id)
    return client.discover_execd(sandbox.id)


@LIFECYCLE.parametrize()
@FUZZ
def test_the_server_answers(case, server, client):
    wanted = case.path_parameters.get("sandbox_id", "")
    if len(wanted) % 2:
        # One that there is, or the answer would be 404 whatever else is asked.
        case.path_parameters["sandbox_id"] = client.create_sandbox(SandboxOpts(image="host")).id

    response = case.call(base_url=server.url, headers={"OPEN-SANDBOX-API-KEY": server.api_key}, timeout=ANSWER_SECONDS)

    for sandbox in client.list_sandboxes():
        client.delete_sandbox(sandbox.id)
    assert response.status_code < 500 or response.status_code in (501, 503)
    assert "Traceback" not in response.text


@AGENT.parametrize()
@FUZZ
def test_the_agent_answers(case, endpoint):
    try:
        response = case.call(base_url=endpoint.url, headers=dict(endpoint.headers), timeout=ANSWER_SECONDS)
    except requests.exceptions.ChunkedEncodingError:
        # execd does so, too, for the download of a directory: it promises more bytes than any disk has.
        assert case.path == "/files/download"
        return

    # execd answers 500 where others answer 404 or 409, but never with an unknown error.
    assert "the agent failed" not in response.text
    assert "Traceback" not in response.text
