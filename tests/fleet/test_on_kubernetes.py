"""The client on Kubernetes, simulated: pools, gateways, and addresses that come late or change."""

import json
import threading
from urllib.request import Request, urlopen

import pytest

from pytest_opensandbox import (
    ApiError,
    AuthError,
    ConfigError,
    ConflictError,
    NotFoundError,
    PauseError,
    ReadyTimeoutError,
    Sandbox,
    SandboxOpts,
)
from pytest_opensandbox.transport.transport import KEY_HEADER
from tests.fleet.model import Delay, Pool
from tests.fleet.server import INGRESS_HEADER, TOKEN_HEADER

COLD = SandboxOpts(image="python:3.12-slim")
NEVER = Delay(10_000, 10_000)


@pytest.mark.parametrize("endpoints", ["header", "uri", "direct"])
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "through the server"])
def test_a_command_reaches_its_own_sandbox_by_every_address(start, lifecycle_of, pooled, endpoints, proxied):
    fleet = start(endpoints=endpoints)
    lifecycle = lifecycle_of(fleet, use_server_proxy=proxied)

    with Sandbox.launch(lifecycle, pooled) as one, Sandbox.launch(lifecycle, pooled) as other:
        output = [sandbox.run("hostname").stdout for sandbox in (one, other)]

    assert output == [f"{one.id}\n", f"{other.id}\n"]
    assert fleet.alive == []


@pytest.mark.parametrize("endpoints", ["header", "uri"])
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "through the server"])
def test_the_token_of_a_secure_sandbox_goes_with_every_call(start, lifecycle_of, endpoints, proxied):
    lifecycle = lifecycle_of(start(endpoints=endpoints), use_server_proxy=proxied)
    secure = SandboxOpts(image="python:3.12-slim", secure_access=True)

    with Sandbox.launch(lifecycle, secure) as sandbox:
        assert sandbox.run("hostname").stdout.strip() == sandbox.id
        endpoint = sandbox.endpoint(44772)
        token = endpoint.headers[TOKEN_HEADER]
        lifecycle.client.ping(endpoint)
        with pytest.raises(AuthError) as caught:
            lifecycle.client.ping(endpoint.url if proxied or endpoints == "uri" else _without(endpoint, TOKEN_HEADER))

    assert len(token) > 20
    assert token not in repr(endpoint) + repr(endpoint.headers) + str(caught.value)


@pytest.mark.parametrize("endpoints", ["header", "uri", "direct"])
def test_a_signed_address_opens_a_port_and_hides_its_signature(start, lifecycle_of, endpoints):
    lifecycle = lifecycle_of(start(endpoints=endpoints))
    secure = SandboxOpts(image="python:3.12-slim", secure_access=True)

    with Sandbox.launch(lifecycle, secure) as sandbox:
        signed = sandbox.endpoint(8000, signed_for=60)
        with urlopen(Request(f"{signed.url}/any", headers=dict(signed.headers)), timeout=10) as response:
            answer = json.load(response)
        with pytest.raises(ApiError) as caught:
            lifecycle.client.download_file(sandbox.endpoint(44772, signed_for=60), "/nothing")

    assert answer == {"port": "8000", "of": sandbox.id}
    assert TOKEN_HEADER not in signed.headers
    assert len(signed.signature) == 9
    assert signed.signature not in repr(signed) + repr(vars(signed))
    assert "***" in str(caught.value) or endpoints == "header"


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_signature_needs_time(start, lifecycle_of, seconds):
    client = lifecycle_of(start()).client

    with pytest.raises(ConfigError, match="signed_for"):
        client.get_endpoint("any", 80, signed_for=seconds)


def test_an_address_through_the_server_cannot_be_signed(start, lifecycle_of):
    client = lifecycle_of(start(), use_server_proxy=True).client

    with pytest.raises(ConfigError, match="signed_for must be left out"):
        client.get_endpoint("any", 80, signed_for=60)


def test_an_address_that_comes_late_is_waited_for(start, lifecycle_of, pooled):
    fleet = start(address=Delay(20, 20))

    with Sandbox.launch(lifecycle_of(fleet), pooled) as sandbox:
        assert sandbox.run("true").ok

    assert fleet.cluster.counts["404 POD_IP_NOT_AVAILABLE"] > 1


def test_an_agent_that_listens_late_is_waited_for(start, lifecycle_of, pooled):
    fleet = start(agent=Delay(20, 20))

    with Sandbox.launch(lifecycle_of(fleet), pooled) as sandbox:
        assert sandbox.run("true").ok

    assert fleet.cluster.counts["503 "] > 1


def test_a_missing_address_ends_in_a_ready_timeout_that_names_it(start, lifecycle_of, pooled):
    fleet = start(address=NEVER)

    with pytest.raises(ReadyTimeoutError, match="POD_IP_NOT_AVAILABLE"):
        Sandbox.launch(lifecycle_of(fleet, ready_timeout=0.3), pooled)

    assert fleet.alive == []


def test_a_create_on_a_full_pool_is_retried_until_there_is_room(start, lifecycle_of, pooled):
    fleet = start(pools={"tests": Pool(max_pods=1, min_pods=1, buffer_min=0, buffer_max=1)}, pool_timeout=5.0)
    lifecycle = lifecycle_of(fleet)
    first = Sandbox.launch(lifecycle, pooled)
    closing = threading.Timer(0.25, first.close)
    closing.start()

    with Sandbox.launch(lifecycle, pooled) as sandbox:
        assert sandbox.run("true").ok

    closing.join()
    assert fleet.cluster.counts["429 POOL_CAPACITY_EXHAUSTED"] >= 1
    assert fleet.cluster.counts["created"] == 2
    assert fleet.alive == []


def test_a_pool_that_stays_full_is_an_error_with_the_remedy(start, lifecycle_of, pooled):
    fleet = start(pools={"tests": Pool(max_pods=1, min_pods=1, buffer_min=0, buffer_max=1)}, pool_timeout=2.0)
    lifecycle = lifecycle_of(fleet, ready_timeout=0.2)

    with Sandbox.launch(lifecycle, pooled), pytest.raises(ApiError, match="run fewer workers") as caught:
        Sandbox.launch(lifecycle, pooled)

    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 0.04)
    assert fleet.alive == []


def test_an_unknown_pool_is_an_error_at_once(start, lifecycle_of):
    fleet = start(pools={})

    with pytest.raises(NotFoundError, match="Pool 'tests' not found"):
        Sandbox.launch(lifecycle_of(fleet), SandboxOpts(resource_limits={}, extensions={"poolRef": "tests"}))

    assert fleet.cluster.counts["create"] == 1


def test_a_sandbox_that_is_pending_for_long_is_waited_for(start, lifecycle_of):
    fleet = start(nodes_hold=1)
    lifecycle = lifecycle_of(fleet)
    first = Sandbox.launch(lifecycle, COLD)
    closing = threading.Timer(0.3, first.close)
    closing.start()

    with Sandbox.launch(lifecycle, COLD) as second:
        assert second.run("true").ok

    closing.join()
    assert fleet.alive == []


def test_a_cluster_without_room_is_an_error_with_the_remedy(start, lifecycle_of):
    fleet = start(nodes_hold=1, create_timeout=5.0)
    lifecycle = lifecycle_of(fleet)

    with Sandbox.launch(lifecycle, COLD), pytest.raises(ApiError, match="sandbox_create_timeout_seconds") as caught:
        Sandbox.launch(lifecycle, COLD)

    assert (caught.value.status, caught.value.code) == (504, "KUBERNETES::POD_READY_TIMEOUT")
    assert fleet.alive == []


@pytest.mark.parametrize("endpoints", ["header", "direct"])
def test_a_sandbox_is_paused_and_resumed_in_another_pod(start, lifecycle_of, pooled, endpoints):
    fleet = start(endpoints=endpoints)

    with Sandbox.launch(lifecycle_of(fleet), pooled) as sandbox:
        sandbox.pause()
        paused = fleet.cluster.get_sandbox(sandbox.id).state(fleet.cluster.now)
        sandbox.resume()
        output = sandbox.run("hostname").stdout.strip()

    assert (paused, output) == ("Paused", sandbox.id)
    moved = [record.command for record in sandbox.history if record.is_note]
    assert len(moved) == (endpoints == "direct")
    assert fleet.cluster.counts["get"] > 4


def test_a_paused_sandbox_refuses_what_needs_a_running_one(start, lifecycle_of, pooled):
    with Sandbox.launch(lifecycle_of(start()), pooled) as sandbox:
        sandbox.pause()

        for use in (
            lambda: sandbox.run("true"),
            lambda: sandbox.get("/x"),
            lambda: sandbox.endpoint(80),
            sandbox.pause,
        ):
            with pytest.raises(PauseError, match="is paused; resume"):
                use()
        assert repr(sandbox).endswith("paused>")


def test_a_pause_that_takes_too_long_names_the_last_state(start, lifecycle_of, pooled):
    with Sandbox.launch(lifecycle_of(start(commit=NEVER)), pooled) as sandbox:
        with pytest.raises(PauseError, match="last state Pausing; PAUSING") as caught:
            sandbox.pause(timeout=0.2)

        assert caught.value.state == "Pausing"
        with pytest.raises(ConflictError, match="is Pausing, not Paused"):
            sandbox.resume()


def test_a_closed_sandbox_is_neither_paused_nor_resumed(start, lifecycle_of, pooled):
    sandbox = Sandbox.launch(lifecycle_of(start()), pooled)
    sandbox.close()

    for use in (sandbox.pause, sandbox.resume):
        with pytest.raises(Exception, match="is closed"):
            use()


def test_the_key_goes_to_the_server_and_not_to_the_gateway(start, lifecycle_of, pooled):
    fleet = start()

    with Sandbox.launch(lifecycle_of(fleet), pooled) as sandbox:
        sandbox.run("true")

    assert {headers[INGRESS_HEADER] for headers in fleet.gateway_headers} == {f"{sandbox.id}-44772"}
    assert not any(KEY_HEADER in headers for headers in fleet.gateway_headers)


def _without(endpoint, name):
    headers = {key: str(value) for key, value in endpoint.headers.items() if key != name}
    return type(endpoint)(endpoint.url, headers, endpoint.sandbox_id)
