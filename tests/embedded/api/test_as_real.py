"""Responses of the lifecycle API that clients depend on, as opensandbox-server 1.1.1 gives them."""

import platform
import time
from datetime import datetime, timedelta, timezone

import pytest
import requests

from tests.embedded.machine import wait_until

CREATE = {"image": {"uri": "host"}, "entrypoint": ["tail", "-f", "/dev/null"], "resourceLimits": {"cpu": "1"}}
HERE = {"os": "linux", "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")}
DENY = {"defaultAction": "deny", "egress": []}


@pytest.fixture
def made(machine):
    """Creates sandboxes, returns the responses, and deletes the sandboxes after the test."""
    ids = []

    def make(**changes):
        answer = machine.request("POST", "/v1/sandboxes", json={**CREATE, **changes})
        ids.append(answer.json().get("id"))
        return answer

    yield make
    for sandbox_id in filter(None, ids):
        machine.request("DELETE", f"/v1/sandboxes/{sandbox_id}")


# Source: opensandbox_server.api.schema, CreateSandboxRequest; .extensions.validation; .services.docker.docker_service.
@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        pytest.param({"credentialProxy": {"enabled": False}}, 202, "", id="no credential proxy"),
        pytest.param({"credentialProxy": {}}, 202, "", id="no word on the credential proxy"),
        pytest.param({"credentialProxy": {"enabled": True}}, 422, "requires networkPolicy", id="a proxy without rules"),
        pytest.param(
            {"credentialProxy": {"enabled": True}, "networkPolicy": DENY}, 400, "credential proxy", id="a proxy"
        ),
        pytest.param({"credentialProxy": []}, 422, "valid dictionary", id="a list for a proxy"),
        pytest.param({"lifecycle": {}}, 400, "ifecycle", id="empty lifecycle hooks"),
        pytest.param({"lifecycle": None}, 202, "", id="null lifecycle hooks"),
        pytest.param({"lifecycle": []}, 422, "valid dictionary", id="a list for hooks"),
        pytest.param({"secureAccess": False}, 202, "", id="no secure access"),
        pytest.param({"secureAccess": "no"}, 202, "", id="no secure access in words"),
        pytest.param({"secureAccess": "perhaps"}, 422, "valid boolean", id="secure access, perhaps"),
        pytest.param({"volumes": []}, 202, "", id="no volumes"),
        pytest.param({"volumes": {}}, 422, "valid list", id="an object for volumes"),
        pytest.param({"templateId": " "}, 202, "", id="a blank template"),
        pytest.param({"env": {"OPENSANDBOX_LIFECYCLE": "x"}}, 422, "reserved", id="a reserved variable"),
        pytest.param({"env": {"OPENSANDBOX_LIFECYCLE": None}}, 422, "reserved", id="a reserved variable, null"),
        pytest.param({"platform": {}}, 422, "Field required", id="an empty platform"),
        pytest.param({"platform": {"os": "linux"}}, 422, "arch", id="half a platform"),
        pytest.param({"platform": {"os": 1, "arch": "amd64"}}, 422, "valid string", id="a number for a system"),
        pytest.param({"platform": []}, 422, "valid dictionary", id="a list for a platform"),
        pytest.param({"platform": {"os": "linux", "arch": "sparc"}}, 400, "platform", id="another processor"),
        pytest.param({"networkPolicy": []}, 422, "valid dictionary", id="a list for rules"),
        pytest.param({"networkPolicy": {"default_action": "allow"}}, 400, "deny", id="python's name for the default"),
        *(
            pytest.param(
                {"extensions": {"access.renew.extend.seconds": text}}, status, words, id=f"renew by {text[:9]!r}"
            )
            for text, status, words in [
                ("299", 400, "access.renew"),
                ("86401", 400, "access.renew"),
                ("", 400, "access.renew"),
                ("soon", 400, "access.renew"),
                ("-300", 400, "access.renew"),
                ("9" * 5000, 400, "access.renew"),
                ("300", 202, ""),
                (" 86400 ", 202, ""),
            ]
        ),
        *(
            pytest.param({"resourceLimits": {"memory": text}}, status, words, id=f"memory {text[:9]!r}")
            for text, status, words in [
                ("9" * 5000, 400, "memory"),
                ("9" * 5000 + "Gi", 400, "memory"),
                ("0" * 5000, 400, "memory"),
                ("0" * 5000 + "1Gi", 400, "memory"),
                ("0001Gi", 202, ""),
                ("²Gi", 400, "memory"),
            ]
        ),
        pytest.param({"resourceLimits": {"cpu": "9" * 5000}}, 400, "cpu", id="5,000 digits of cpu"),
    ],
)
def test_a_create_is_judged_as_by_the_real_server(made, changes, status, words):
    answer = made(**changes)

    assert (answer.status_code, words in answer.text) == (status, True)


def test_a_bad_extension_is_told_before_a_missing_snapshot(made):
    refused = made(image=None, snapshotId="none", extensions={"access.renew.extend.seconds": "1"})

    assert (refused.status_code, refused.json()["code"]) == (400, "SANDBOX::INVALID_PARAMETER")


def test_an_answer_leaves_out_what_there_is_not(machine, made):
    created = made(metadata={}, extensions={"access.renew.extend.seconds": "300", "x": "y"}).json()
    shown = machine.request("GET", f"/v1/sandboxes/{created['id']}").json()

    for answer in (created, shown):
        assert not {"metadata", "extensions", "platform", "snapshotId", "expiresAt"} & answer.keys()


def test_extensions_under_the_servers_prefix_are_told_again(machine, made):
    kept = {"opensandbox.extensions.team": "a"}
    created = made(extensions={**kept, "x": "y"}).json()

    assert created["extensions"] == kept
    assert machine.request("GET", f"/v1/sandboxes/{created['id']}").json()["extensions"] == kept


def test_a_platform_is_told_again_as_it_was_understood(machine, made):
    created = made(platform={"os": " Linux", "arch": HERE["arch"].upper()}).json()

    assert created["platform"] == HERE
    assert machine.request("GET", f"/v1/sandboxes/{created['id']}").json()["platform"] == HERE


def test_a_restored_sandbox_has_its_source_s_metadata(machine, made):
    """A container has its image's labels, and a snapshot is an image; what was patched since is not among them."""
    source = made(metadata={"a": "source", "b": "source"}).json()["id"]
    machine.client.wait_ready(source)
    machine.request("PATCH", f"/v1/sandboxes/{source}/metadata", json={"a": "patched", "c": "patched"})
    snapshot = machine.request("POST", f"/v1/sandboxes/{source}/snapshots").json()["id"]
    path = f"/v1/snapshots/{snapshot}"
    assert wait_until(lambda: machine.request("GET", path).json()["status"]["state"] == "Ready")

    restored = made(image=None, snapshotId=snapshot, metadata={"b": "own"}).json()
    shown = machine.request("GET", f"/v1/sandboxes/{restored['id']}").json()
    found = machine.request("GET", "/v1/sandboxes?metadata=a%3Dsource%26b%3Down").json()["items"]

    assert restored["metadata"] == {"b": "own"}
    assert shown["metadata"] == {"a": "source", "b": "own"}
    assert [item["id"] for item in found] == [restored["id"]]


@pytest.mark.parametrize("moment", ["2020-01-01T00:00:00Z", 1_000_000_000])
def test_a_renewal_of_an_unknown_sandbox_is_not_found_whatever_its_time(machine, moment):
    refused = machine.request("POST", "/v1/sandboxes/none/renew-expiration", json={"expiresAt": moment})

    assert (refused.status_code, refused.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_FOUND")


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda seconds: seconds * 1000, id="milliseconds"),
        pytest.param(lambda seconds: str(seconds * 1000), id="milliseconds in a text"),
        pytest.param(lambda seconds: seconds, id="seconds"),
        pytest.param(lambda seconds: f"{seconds}.0", id="seconds in a text"),
        pytest.param(lambda seconds: datetime.fromtimestamp(seconds, timezone.utc).isoformat(), id="a date"),
    ],
)
def test_an_expiry_may_be_written_in_several_ways(machine, made, write):
    sandbox_id = made(timeout=60).json()["id"]
    later = int(time.time()) + 3600

    renewed = machine.request("POST", f"/v1/sandboxes/{sandbox_id}/renew-expiration", json={"expiresAt": write(later)})

    assert renewed.status_code == 200
    expires_at = datetime.fromisoformat(renewed.json()["expiresAt"].replace("Z", "+00:00"))
    assert abs(expires_at - datetime.fromtimestamp(later, timezone.utc)) < timedelta(seconds=1)


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e308, -1e308, "9" * 20, "-" + "9" * 20])
def test_a_number_beyond_all_dates_is_no_expiry(machine, made, number):
    sandbox_id = made(timeout=60).json()["id"]

    refused = machine.request("POST", f"/v1/sandboxes/{sandbox_id}/renew-expiration", json={"expiresAt": number})

    assert refused.status_code in (400, 422)


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        pytest.param("GET", "/v1/sandboxes/?page=1&state=a%2Fb", "/v1/sandboxes?page=1&state=a%2Fb", id="a listing"),
        pytest.param("POST", "/v1/sandboxes/", "/v1/sandboxes", id="a create"),
        pytest.param("GET", "/sandboxes/x//", "/sandboxes/x", id="two slashes, no version"),
        pytest.param("PUT", "/v1/sandboxes/", "/v1/sandboxes", id="a method that is not there"),
        pytest.param("GET", "/health/", "/health", id="health"),
    ],
)
def test_a_slash_at_the_end_is_redirected(machine, method, path, where):
    answer = machine.request(method, path, allow_redirects=False)

    assert (answer.status_code, answer.headers["Location"], answer.content) == (307, f"{machine.url}{where}", b"")
    assert answer.headers["X-Request-ID"]


def test_a_slash_where_nothing_is_stays_not_found(machine):
    assert machine.request("GET", "/v1/no-such-route/", allow_redirects=False).status_code == 404
    assert machine.request("GET", "/v1/sandboxes/", headers={}, allow_redirects=False).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/pools"), ("POST", "/pools"), ("PUT", "/pools/p"), ("DELETE", "/v1/pools/p"), ("GET", "/v1/templates")],
)
def test_what_needs_kubernetes_is_not_implemented(machine, method, path):
    refused = machine.request(method, path, json={})

    code = "KUBERNETES::POOL_NOT_SUPPORTED" if "pools" in path else "FSB::API_NOT_SUPPORTED"
    assert (refused.status_code, refused.json()["code"]) == (501, code)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("diagnostics/logs?scope=%ff", id="scope"),
        pytest.param("diagnostics/logs?tail=%ff", id="tail"),
        pytest.param("endpoints/80?use_server_proxy=%ff", id="a flag"),
        pytest.param("endpoints/80?use_server_proxy=", id="an empty flag"),
        pytest.param("endpoints/80?expires=%ff", id="a time"),
    ],
)
def test_a_parameter_that_is_no_text_is_refused(machine, made, query):
    sandbox_id = made().json()["id"]

    assert machine.request("GET", f"/v1/sandboxes/{sandbox_id}/{query}").status_code in (400, 422)


@pytest.mark.parametrize("query", ["sandboxes?metadata=a%3D%ff", "sandboxes?state=%ff", "snapshots?name=%ff"])
def test_a_filter_that_is_no_text_finds_nothing(machine, made, query):
    """It must not count as no filter."""
    made(metadata={"a": "b"})

    listed = machine.request("GET", f"/v1/{query}")

    assert (listed.status_code, listed.json()["items"]) == (200, [])


@pytest.mark.parametrize("depth", [100, 450, 900, 990, 5000])
def test_an_input_that_is_told_back_may_be_deep(machine, depth):
    body = '{"timeout":' + "[" * depth + "NaN" + "]" * depth + "}"

    refused = machine.request("POST", "/v1/sandboxes", data=body)

    assert refused.status_code == 422
    assert refused.json()["detail"]


@pytest.mark.parametrize(
    ("header", "shift", "status"),
    [
        pytest.param("If-Modified-Since", 0, 304, id="unchanged"),
        pytest.param("If-Modified-Since", -10, 200, id="changed since"),
        pytest.param("If-Unmodified-Since", 0, 200, id="unchanged, as wanted"),
        pytest.param("If-Unmodified-Since", -10, 412, id="changed, though not wanted"),
    ],
)
def test_a_download_may_depend_on_the_time_of_the_last_change(machine, made, header, shift, status):
    """Source: execd's pkg/web/controller/filesystem_download.go, which leaves this to Go's http.ServeContent."""
    endpoint = machine.client.wait_ready_endpoint(made().json()["id"])[1]
    ask = f"{endpoint.url}/files/download?path=/etc/hostname"
    changed = requests.get(ask, timeout=10).headers["Last-Modified"]
    moment = datetime.strptime(changed, "%a, %d %b %Y %H:%M:%S GMT") + timedelta(seconds=shift)

    answer = requests.get(ask, headers={header: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")}, timeout=10)

    assert answer.status_code == status
    assert (answer.content == b"") == (status != 200)
    assert requests.get(ask, headers={header: "yesterday"}, timeout=10).status_code == 200
