"""Authentication and validation of requests."""

import socket

import pytest

CREATE = {"image": {"uri": "host"}, "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "1"}}


@pytest.mark.parametrize("path", ["/health", "/version"])
def test_health_and_version_need_no_key(machine, path):
    assert machine.request("GET", path, headers={}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("GET", "/v1/sandboxes", id="list"),
        pytest.param("POST", "/v1/sandboxes", id="create"),
        pytest.param("GET", "/v1/sandboxes/any/proxy/44772/ping", id="proxy"),
        pytest.param("GET", "/v1/no-such-route", id="unknown route"),
        pytest.param("GET", "/v1/snapshots", id="snapshots"),
    ],
)
def test_everything_else_needs_the_key(machine, method, path):
    missing = machine.request(method, path, headers={})
    wrong = machine.request(method, path, headers={"OPEN-SANDBOX-API-KEY": machine.api_key[:-1]})

    assert (missing.status_code, missing.json()["code"]) == (401, "MISSING_API_KEY")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "INVALID_API_KEY")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]:80", "localhost.x"]
)
def test_a_foreign_host_name_is_refused(machine, host):
    """A page in a browser can make its own host name point to 127.0.0.1."""
    refused = machine.request("GET", "/health", headers={"Host": host})

    assert refused.status_code in (400, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:1234", "[::1]:80", "[::1]"])
def test_names_of_loopback_are_welcome(machine, host):
    assert machine.request("GET", "/health", headers={"Host": host}).status_code == 200


def test_a_request_id_is_echoed(machine):
    headers = {"OPEN-SANDBOX-API-KEY": machine.api_key, "X-Request-ID": "mine"}

    for path in ("/health", "/v1/sandboxes/none", "/no-such-route"):
        assert machine.request("GET", path, headers=headers).headers["X-Request-ID"] == "mine"


def test_a_wrong_method_is_told_apart_from_a_wrong_path(machine):
    wrong_method = machine.request("PUT", "/v1/sandboxes")

    assert (wrong_method.status_code, wrong_method.json()) == (405, {"detail": "Method Not Allowed"})
    assert machine.request("HEAD", "/health").status_code == 405


def test_a_refused_head_leaves_its_connection_in_step(machine):
    """The client would take a body after HEAD for the next response."""
    host, _, port = machine.url.removeprefix("http://").partition(":")
    head, get = (f"{method} /health HTTP/1.1\r\nHost: {host}\r\n" for method in ("HEAD", "GET"))

    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}\r\n{get}Connection: close\r\n\r\n".encode())
        answers = b"".join(iter(lambda: connection.recv(65536), b""))

    first, _, rest = answers.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405 ")
    assert rest.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        pytest.param({"image": {"uri": "python:3.12"}}, 400, "--opensandbox-image host", id="another image"),
        pytest.param({"networkPolicy": {"defaultAction": "allow", "egress": []}}, 400, "deny", id="open network"),
        pytest.param(
            {
                "networkPolicy": {
                    "defaultAction": "deny",
                    "egress": [{"action": "allow", "target": "packages.example.org"}],
                }
            },
            400,
            "--opensandbox-url docker",
            id="network rules",
        ),
        pytest.param({"extensions": {"poolRef": "p"}}, 400, "leave the pool out, or use the URL of an", id="a pool"),
        pytest.param({"volumes": [{"name": "v"}]}, 400, "--opensandbox-url docker", id="volumes"),
        pytest.param({"secureAccess": True}, 400, "the URL of an OpenSandbox server on Kubernetes", id="secure access"),
        pytest.param({"lifecycle": {"preStart": {}}}, 400, "an OpenSandbox server on Kubernetes", id="lifecycle hooks"),
        pytest.param({"resourceLimits": {"gpu": "1"}}, 400, "--opensandbox-url docker", id="a device"),
        pytest.param({"resourceLimits": {"memory": "0.5Gi"}}, 400, "resourceLimits.memory", id="a fraction of memory"),
        pytest.param({"resourceLimits": {"cpu": "-1"}}, 400, "resourceLimits.cpu", id="less than no cpu"),
        pytest.param({"env": {"A=B": "c"}}, 400, "A=B", id="an impossible variable"),
        pytest.param({"env": {"A": "\0"}}, 400, "NUL", id="an impossible value"),
        pytest.param({"env": {"A": "\ud800"}}, 400, "invalid", id="half a character"),
        pytest.param({"entrypoint": ["a\0b"]}, 400, "NUL", id="an impossible argument"),
        pytest.param({"platform": {"os": "windows", "arch": "amd64"}}, 400, "platform", id="another platform"),
        pytest.param({"timeout": 10**14}, 400, "too large", id="beyond all dates"),
        pytest.param({"timeout": "soon"}, 422, "unable to parse string as an integer", id="a word for a number"),
        pytest.param({"timeout": 70.5}, 422, "fractional part", id="a fraction of a second"),
        pytest.param({"timeout": []}, 422, "valid integer", id="a list for a number"),
        pytest.param({"entrypoint": []}, 422, "at least 1 item", id="an empty entrypoint"),
        pytest.param({"entrypoint": "sleep 1"}, 422, "valid list", id="a text for a list"),
        pytest.param({"entrypoint": [1]}, 422, "valid string", id="a number for an argument"),
        pytest.param({"env": []}, 422, "valid dictionary", id="a list for a map"),
        pytest.param({"env": {"A": 1}}, 422, "valid string", id="a number for a value"),
        pytest.param({"metadata": {"a": None}}, 422, "valid string", id="null for a label"),
        pytest.param({"image": "host"}, 422, "valid dictionary", id="a text for an image"),
        pytest.param({"image": {}}, 422, "Field required", id="an image without a name"),
        pytest.param({"image": {"uri": " "}}, 422, "Exactly one of image or snapshotId", id="a blank image"),
        pytest.param({"snapshotId": "s"}, 422, "Exactly one of image or snapshotId", id="image and snapshot"),
    ],
)
def test_a_create_that_cannot_be_is_refused_with_its_reason(machine, changes, status, words):
    refused = machine.request("POST", "/v1/sandboxes", json={**CREATE, **changes})

    assert refused.status_code == status
    assert words in refused.text
    assert machine.request("GET", "/v1/sandboxes").json()["items"] == []


def test_the_one_network_policy_that_is_true_here_is_accepted(machine):
    made = machine.request(
        "POST", "/v1/sandboxes", json={**CREATE, "networkPolicy": {"defaultAction": "deny", "egress": []}}
    )

    assert made.status_code == 202
    machine.request("DELETE", f"/v1/sandboxes/{made.json()['id']}")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(b"", "missing", id="nothing"),
        pytest.param(b"{", "json_invalid", id="half an object"),
        pytest.param(b"\xff", "json_invalid", id="not text"),
        pytest.param(b"[]", "model_attributes_type", id="a list"),
    ],
)
def test_a_body_that_is_no_object_is_refused(machine, body, kind):
    refused = machine.request("POST", "/v1/sandboxes", data=body)

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["type"] == kind


@pytest.mark.parametrize(
    ("query", "status"),
    [
        pytest.param("page=0", 422, id="page 0"),
        pytest.param("pageSize=0", 422, id="empty pages"),
        pytest.param("page=x", 422, id="a word"),
        pytest.param("metadata=a", 400, id="half a pair"),
        pytest.param("metadata=", 200, id="no filter"),
    ],
)
def test_listing_parameters_are_checked(machine, query, status):
    assert machine.request("GET", f"/v1/sandboxes?{query}").status_code == status


@pytest.mark.parametrize("value", ["yesterday", None, [], "2020-01-01T00:00:00Z", 1e30, "9999-12-31T23:59:59-23:00"])
def test_a_renewal_needs_a_time_to_come(machine, value):
    made = machine.request("POST", "/v1/sandboxes", json={**CREATE, "timeout": 60}).json()
    path = f"/v1/sandboxes/{made['id']}"

    assert machine.request("POST", f"{path}/renew-expiration", json={"expiresAt": value}).status_code in (400, 422)
    assert machine.request("GET", path).json()["expiresAt"] == made["expiresAt"]
    machine.request("DELETE", path)


@pytest.mark.parametrize("query", ["expires=9999999999", "expires=9999999999&use_server_proxy=true"])
def test_signed_routes_are_refused(machine, query):
    made = machine.request("POST", "/v1/sandboxes", json=CREATE).json()

    refused = machine.request("GET", f"/v1/sandboxes/{made['id']}/endpoints/44772?{query}")

    assert (refused.status_code, refused.json()["code"]) == (400, "SANDBOX::API_NOT_SUPPORTED")
    machine.request("DELETE", f"/v1/sandboxes/{made['id']}")


def test_a_fault_of_ours_is_a_plain_500_and_the_server_lives_on(machine):
    """A bug must not end the run's other sandboxes."""
    broken = machine.request("POST", "/v1/sandboxes", data=b'{"image": {"uri": "host"}, "timeout": 1e400}')

    assert broken.status_code in (422, 500)
    assert machine.request("GET", "/health").status_code == 200
