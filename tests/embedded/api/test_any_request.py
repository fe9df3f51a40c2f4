"""Any bytes from a caller with the key get a refusal or a result, and the server keeps running."""

import json
import socket
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

# The same requests in each run: a test that fails at random blocks changes that did not cause it.
SAME = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, float("inf"), float("nan")])
)
WORDS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(
        ["9" * 4_400, "0" * 4_400, "\ud800", "\0", "²", "1e999", "-1", " 1 ", "host", "512Mi", "t" * 5_000]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3))
)
FIELDS = (
    *("image", "snapshotId", "platform", "timeout", "resourceLimits", "env", "metadata", "entrypoint", "networkPolicy"),
    *("credentialProxy", "secureAccess", "volumes", "extensions", "lifecycle", "templateId", "expiresAt", "name"),
)
NESTED = ("uri", "os", "arch", "memory", "cpu", "enabled", "egress", "defaultAction", "access.renew.extend.seconds")
OBJECTS = st.dictionaries(
    st.one_of(st.sampled_from(FIELDS), WORDS),
    st.one_of(VALUES, st.dictionaries(st.sampled_from(NESTED), VALUES, max_size=3)),
    max_size=6,
)
BODIES = st.one_of(
    st.binary(max_size=50),
    OBJECTS.map(lambda value: json.dumps(value).encode()),
    OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.integers(0, 2_000).map(lambda depth: b'{"timeout":' + b"[" * depth + b"]" * depth + b"}"),
)
HEADER_BYTES = st.binary(max_size=30).map(lambda raw: raw.translate(None, b"\r\n\0"))
TARGET_BYTES = st.binary(max_size=20).map(lambda raw: b"".join(b"%%%02x" % byte for byte in raw))
SEGMENTS = st.one_of(
    st.sampled_from([b"{id}", b"none", b"..", b"", b"pause", b"logs", b"44772", b"-1", b"9" * 4_400, b"x" * 9_000]),
    TARGET_BYTES,
)
PATHS = st.one_of(
    st.sampled_from(
        [
            *(
                b"/v1/sandboxes",
                b"/sandboxes/",
                b"/v1/snapshots",
                b"/health",
                b"/pools",
                b"*",
                b"http://x/v1/sandboxes",
            ),
            *(b"/v1/sandboxes/{id}" + end for end in (b"", b"/", b"/metadata", b"/renew-expiration", b"/snapshots")),
            *(b"/v1/sandboxes/{id}/diagnostics/" + kind for kind in (b"logs", b"events", b"inspect", b"summary")),
            *(b"/v1/sandboxes/{id}/" + end for end in (b"endpoints/80", b"proxy/44772/ping", b"proxy/1/", b"proxy/x")),
        ]
    ),
    st.lists(SEGMENTS, max_size=5).map(lambda parts: b"/v1/" + b"/".join(parts)),
)
QUERIES = {
    b"/v1/sandboxes": (b"state", b"metadata", b"page", b"pageSize"),
    b"/v1/snapshots": (b"state", b"name", b"sandboxId", b"page"),
    b"/v1/sandboxes/{id}/diagnostics/logs": (b"scope", b"tail", b"since"),
    b"/v1/sandboxes/{id}/diagnostics/events": (b"scope", b"limit"),
    b"/v1/sandboxes/{id}/diagnostics/summary": (b"tail",),
    b"/v1/sandboxes/{id}/endpoints/80": (b"use_server_proxy", b"expires"),
}
QUERY_VALUES = st.one_of(
    TARGET_BYTES,
    st.sampled_from(
        [b"%ff", b"all", b"1", b"-1", b"9" * 4_400, b"a%3Db", b"true", b"&", b"a=b=c", b"%zz", b"1d", b"9" * 6 + b"d"]
    ),
)
# A create that is valid but for one odd value: with more odd values, only the first is looked at.
NEARLY = {
    "timeout": SCALARS,
    "snapshotId": SCALARS,
    "entrypoint": st.lists(SCALARS, max_size=2),
    "resourceLimits": st.dictionaries(st.sampled_from(["memory", "cpu", "gpu", "x"]), WORDS, min_size=1, max_size=2),
    "env": st.dictionaries(WORDS, st.one_of(WORDS, st.none()), max_size=2),
    "metadata": st.dictionaries(WORDS, WORDS, max_size=2),
    "extensions": st.dictionaries(st.sampled_from(["poolRef", "access.renew.extend.seconds", "x"]), WORDS, max_size=2),
    "platform": st.fixed_dictionaries({"os": SCALARS, "arch": SCALARS}),
    "networkPolicy": st.fixed_dictionaries({"defaultAction": SCALARS, "egress": VALUES}),
    "credentialProxy": st.fixed_dictionaries({"enabled": SCALARS}),
    "image": st.fixed_dictionaries({"uri": SCALARS}),
    "lifecycle": st.dictionaries(WORDS, VALUES, max_size=2),
    "volumes": st.lists(VALUES, max_size=2),
}
GOOD = {"image": {"uri": "host"}, "entrypoint": ["true"], "resourceLimits": {"cpu": "1"}, "timeout": 60}
CREATES = st.sampled_from(sorted(NEARLY)).flatmap(
    lambda field: NEARLY[field].map(lambda value: json.dumps({**GOOD, field: value}).encode())
)
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"get", b"X-Y"])


@pytest.fixture(scope="module")
def ask(machine):
    """Sends bytes, and returns the status of the response, None if the server closes the connection instead."""
    sandbox_id = machine.create()
    address = ("127.0.0.1", int(machine.url.rpartition(":")[2]))

    def ask(method, path, query, headers, body):
        nonlocal sandbox_id
        if machine.request("GET", f"/v1/sandboxes/{sandbox_id}").status_code == 404:  # one of the requests deleted it
            sandbox_id = machine.create()
        target = path.replace(b"{id}", sandbox_id.encode()) + (b"?" + query if query else b"")
        lines = [
            method + b" " + target + b" HTTP/1.1",
            b"Host: 127.0.0.1",
            b"OPEN-SANDBOX-API-KEY: " + machine.api_key.encode(),
            b"Content-Length: %d" % len(body),
            *headers,
            b"Connection: close",
        ]
        answer = b""
        with socket.create_connection(address, timeout=30) as connection, suppress(ConnectionError):
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            while data := connection.recv(65536):
                answer += data
        for listed in machine.client.list_sandboxes():
            if listed.id != sandbox_id:
                machine.client.delete_sandbox(listed.id)
        return int(answer.split()[1]) if answer else None

    return ask


def is_well(status):
    """Say whether a status is a result or a refusal; for a missing service the proxy answers 502."""
    return status is None or status < 500 or status in (501, 502, 503, 505)


@given(METHODS, PATHS, BODIES)
@SAME
def test_no_request_is_a_fault_of_the_server(ask, method, path, body):
    assert is_well(ask(method, path, b"", [], body))


@pytest.mark.parametrize("path", QUERIES)
@given(values=st.lists(QUERY_VALUES, min_size=1, max_size=3), data=st.data())
@SAME
def test_no_query_is_a_fault_of_the_server(ask, path, values, data):
    query = b"&".join(data.draw(st.sampled_from(QUERIES[path])) + b"=" + value for value in values)

    assert is_well(ask(b"GET", path, query, [], b""))


@given(CREATES)
@SAME
def test_no_create_is_a_fault_of_the_server(ask, body):
    assert is_well(ask(b"POST", b"/v1/sandboxes", b"", [], body))


@given(st.sampled_from(["renew-expiration", "snapshots", "metadata"]), st.dictionaries(WORDS, VALUES), VALUES)
@SAME
def test_no_change_is_a_fault_of_the_server(ask, kind, others, value):
    field = {"renew-expiration": "expiresAt", "snapshots": "name", "metadata": "a"}[kind]
    method = b"PATCH" if kind == "metadata" else b"POST"
    body = json.dumps({**others, field: value}).encode()

    assert is_well(ask(method, b"/v1/sandboxes/{id}/" + kind.encode(), b"", [], body))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"X-Request-ID", b"Host", b"Content-Type", b"Range", b"Expect", b"Upgrade", b"Accept", b"Cookie", b"X"]
            ),
            HEADER_BYTES,
        ).map(b": ".join),
        max_size=4,
    ),
    st.sampled_from([b"/v1/sandboxes", b"/v1/sandboxes/{id}/proxy/44772/ping", b"/v1/sandboxes/"]),
)
@SAME
def test_no_header_is_a_fault_of_the_server(ask, headers, path):
    assert is_well(ask(b"GET", path, b"", headers, b""))
