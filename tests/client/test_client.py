"""The lifecycle operations: what is sent, what is read, what is repeated, and what never is."""

import pickle
import re
import time
from datetime import datetime, timezone
from email.utils import formatdate

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import EXECD_PORT
from pytest_opensandbox.client.sandbox_opts import NetworkPolicy, SandboxOpts
from pytest_opensandbox.errors import ApiError, ConfigError, NotFoundError, ProtocolError, TransportError
from pytest_opensandbox.transport.transport import KEY_HEADER
from tests.scripted_servers import Reply, as_json, serving

NO_CONTENT = Reply(204)
SANDBOX = {"id": "s1", "status": {"state": "Running"}}
AGAIN = Reply(503, headers={"Retry-After": "0"})


def page(*ids: str, more: bool = False) -> Reply:
    return as_json({"items": [{"id": name} for name in ids], "pagination": {"hasNextPage": more}})


def test_a_create_sends_what_the_specification_asks_for_and_the_key():
    opts = SandboxOpts(
        image="python:3.12",
        timeout=120,
        env={"A": "1"},
        metadata={"run": "r1"},
        network_policy=NetworkPolicy.only("packages.example.org"),
    )
    with serving(as_json(SANDBOX, 202)) as server, Client(server.url, "k") as client:
        created = client.create_sandbox(opts)

    (seen,) = server.seen
    assert (seen.method, seen.path, seen.headers[KEY_HEADER]) == ("POST", "/v1/sandboxes", "k")
    assert seen.json == {
        "image": {"uri": "python:3.12"},
        "entrypoint": ["tail", "-f", "/dev/null"],
        "resourceLimits": {"cpu": "500m", "memory": "512Mi"},
        "timeout": 120,
        "env": {"A": "1"},
        "metadata": {"run": "r1"},
        "networkPolicy": {"defaultAction": "deny", "egress": [{"action": "allow", "target": "packages.example.org"}]},
    }
    assert (created.id, created.state) == ("s1", "Running")


# There is no idempotency key: a second try could make a second sandbox that no client knows of.
@pytest.mark.parametrize("reply", [AGAIN, Reply(429), Reply(502), Reply(drop="before")], ids=str)
def test_a_create_is_sent_once_whatever_comes_back(reply):
    with (
        serving(reply, as_json(SANDBOX, 202)) as server,
        Client(server.url) as client,
        pytest.raises((ApiError, TransportError)),
    ):
        client.create_sandbox(SandboxOpts(image="x"))

    assert len(server.seen) == 1


def test_a_create_has_its_own_time():
    client = Client("http://127.0.0.1:1", request_timeout=7, create_timeout=400)

    assert (client.timeouts.request_seconds, client.timeouts.create_seconds) == (7, 400)
    assert Client("http://h").timeouts.create_seconds == 300


def test_get_reads_a_sandbox_and_quotes_its_id():
    with serving(AGAIN, as_json(SANDBOX)) as server, Client(f"{server.url}/v1/") as client:
        assert client.get_sandbox("a/b").state == "Running"

    assert server.seen[1].path == "/v1/sandboxes/a%2Fb"


def test_an_unknown_state_and_unknown_fields_are_data():
    body = {"id": "s1", "status": {"state": "Hibernating", "new": 1}, "newer": {"x": []}}
    with serving(as_json(body)) as server, Client(server.url) as client:
        sandbox = client.get_sandbox("s1")

    assert (sandbox.state, sandbox.is_running, sandbox.is_final) == ("Hibernating", False, False)


def test_a_list_filter_is_one_urlencoded_parameter_of_any_number_of_labels():
    with serving(page("a")) as server, Client(server.url) as client:
        client.list_sandboxes({"run": "r 1", "p/k": "a&b"}, states=["Running", "Paused"])

    assert server.seen[0].query == [
        ("metadata", "run=r+1&p%2Fk=a%26b"),
        ("state", "Running"),
        ("state", "Paused"),
        ("page", "1"),
        ("pageSize", "200"),
    ]


def test_a_list_without_a_filter_asks_for_everything():
    with serving(page()) as server, Client(server.url) as client:
        assert client.list_sandboxes() == []

    assert server.seen[0].query == [("page", "1"), ("pageSize", "200")]


def test_all_pages_are_read_and_ids_that_moved_count_once():
    pages = [page("a", "b", more=True), AGAIN, page("b", "c", more=True), page("d")]
    with serving(*pages) as server, Client(server.url) as client:
        found = client.list_sandboxes()

    assert [sandbox.id for sandbox in found] == ["a", "b", "c", "d"]


def test_a_server_that_always_promises_another_page_is_left():
    with serving(page("a", more=True), page("a", more=True)) as server, Client(server.url) as client:
        assert len(client.list_sandboxes()) == 1


def test_a_bare_list_is_a_list():
    with serving(as_json([{"id": "a"}])) as server, Client(server.url) as client:
        assert [sandbox.id for sandbox in client.list_sandboxes({"a": "b"})] == ["a"]


@pytest.mark.parametrize("body", [None, {"things": []}, "text", [{"no": "id"}]])
def test_a_listing_of_another_shape_is_a_protocol_error(body):
    with serving(as_json(body)) as server, Client(server.url) as client, pytest.raises(ProtocolError):
        client.list_sandboxes()


@pytest.mark.parametrize(
    ("replies", "deleted"),
    [
        pytest.param([NO_CONTENT], True, id="deleted"),
        pytest.param([as_json({"code": "DOCKER::SANDBOX_NOT_FOUND"}, 404)], False, id="already gone"),
        pytest.param([Reply(drop="before"), NO_CONTENT], True, id="after a broken connection"),
        pytest.param(
            [as_json({"code": "DOCKER::SANDBOX_DELETE_FAILED"}, 500), NO_CONTENT], True, id="at the second try"
        ),
    ],
)
def test_a_delete_says_whether_there_was_something(replies, deleted):
    with serving(*replies) as server, Client(server.url) as client:
        assert client.delete_sandbox("s1") is deleted

    assert len(server.seen) == len(replies)


@pytest.mark.parametrize("sandbox_id", ["", ".", ".."])
def test_an_empty_id_deletes_nothing(sandbox_id):
    with serving() as server, Client(server.url) as client, pytest.raises(ConfigError, match="sandbox_id"):
        client.delete_sandbox(sandbox_id)

    assert server.seen == []


def test_an_endpoint_has_scheme_path_headers_and_the_sandboxes_id():
    body = {"endpoint": "localhost:43350/proxy/44772/", "headers": {"X-Route": "r"}}
    with serving(as_json(body)) as server, Client(server.url) as client:
        endpoint = client.discover_execd("s1")

    assert server.seen[0].path == f"/v1/sandboxes/s1/endpoints/{EXECD_PORT}"
    assert server.seen[0].query == []
    assert (endpoint.url, endpoint.headers) == ("http://localhost:43350/proxy/44772", {"X-Route": "r"})
    assert (endpoint.host, endpoint.port, endpoint.sandbox_id) == ("localhost", 43350, "s1")


@pytest.mark.parametrize("port", ["8000", 0, 65_536, 8000.0, True], ids=repr)
def test_what_is_no_port_is_refused_and_nobody_is_asked(port):
    rule = r"^port must be a whole number, 1 to 65535, such as 8000; got "
    with serving() as server, Client(server.url) as client, pytest.raises(ConfigError, match=rule):
        client.get_endpoint("s1", port)

    assert server.seen == []


def test_the_servers_proxy_is_asked_for_on_request():
    with serving(as_json({"endpoint": "h:1"})) as server, Client(server.url, use_server_proxy=True) as client:
        client.get_endpoint("s1", 8000)

    assert server.seen[0].query == [("use_server_proxy", "true")]


@pytest.mark.parametrize(
    "body", [None, [], {}, {"endpoint": None}, {"endpoint": ""}, {"endpoint": "h", "headers": ["X-Route"]}]
)
def test_what_is_no_endpoint_is_a_protocol_error(body):
    with serving(as_json(body)) as server, Client(server.url) as client, pytest.raises(ProtocolError, match="endpoint"):
        client.get_endpoint("s1", 1)


# A machine whose clock is wrong must not let its sandboxes die, or live for a day.
def test_a_renewal_counts_by_the_servers_clock():
    server_now = time.time() + 86_400
    date = {"Date": formatdate(server_now, usegmt=True)}
    asked: list[datetime] = []
    answers = [Reply(200, b'{"id": "s1"}', date), as_json({"expiresAt": "2030-01-01T00:00:00Z"})]
    with serving(*answers) as server, Client(server.url) as client:
        client.get_sandbox("s1")

        until = client.renew("s1", 120)

    text = server.seen[1].json["expiresAt"]
    asked.append(datetime.fromisoformat(text.replace("Z", "+00:00")))
    assert server.seen[1].path == "/v1/sandboxes/s1/renew-expiration"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert abs(asked[0].timestamp() - server_now - 120) < 60
    assert until == datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_renewal_to_the_past_is_refused(seconds):
    with Client("http://127.0.0.1:1") as client, pytest.raises(ConfigError, match="seconds"):
        client.renew("s1", seconds)


def test_pause_and_resume_expect_no_body():
    with serving(Reply(202), Reply(202)) as server, Client(server.url) as client:
        client.pause("s1")
        client.resume("s1")

    assert [(seen.path, seen.body) for seen in server.seen] == [
        ("/v1/sandboxes/s1/pause", b""),
        ("/v1/sandboxes/s1/resume", b""),
    ]


def test_labels_are_changed_and_removed_by_a_merge_patch():
    with serving(as_json({"id": "s1", "metadata": {"a": "1"}})) as server, Client(server.url) as client:
        patched = client.patch_metadata("s1", {"a": "1", "b": None})

        with pytest.raises(ConfigError, match="metadata"):
            client.patch_metadata("s1", {"a": "no spaces"})
    assert (server.seen[0].method, server.seen[0].json) == ("PATCH", {"a": "1", "b": None})
    assert patched.metadata == {"a": "1"}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        pytest.param(as_json({"delivery": "inline", "content": "line\n"}), "line\n", id="JSON"),
        pytest.param(
            Reply(200, b'{"an": "application\'s own JSON"}'), '{"an": "application\'s own JSON"}', id="a log of JSON"
        ),
        pytest.param(Reply(200, b"line\n", {"Content-Type": "text/plain"}), "line\n", id="text of older servers"),
        pytest.param(as_json({"delivery": "url", "contentUrl": "http://x"}), "", id="elsewhere, which is not fetched"),
        pytest.param(as_json({"delivery": "inline", "content": "(no logs)"}), "", id="none"),
        pytest.param(Reply(200), "", id="empty"),
        pytest.param(as_json({"detail": "Not Found"}, 404), "", id="no such operation"),
        pytest.param(as_json({"code": "DIAGNOSTICS_SCOPE_UNSUPPORTED"}, 400), "", id="no such scope"),
        pytest.param(Reply(501), "", id="not implemented"),
    ],
)
def test_diagnostics_are_text_or_nothing(reply, text):
    with serving(reply) as server, Client(server.url) as client:
        assert client.diagnostics("s1") == text

    assert server.seen[0].query == [("scope", "container")]


# It was "" without a word, as if the sandbox had written nothing.
@pytest.mark.parametrize("runtime", ["DOCKER", "KUBERNETES", "FSB"])
def test_diagnostics_of_a_sandbox_that_does_not_exist_are_an_error(runtime):
    missing = as_json({"code": f"{runtime}::SANDBOX_NOT_FOUND", "message": "Sandbox s1 not found."}, 404)
    with serving(missing) as server, Client(server.url) as client, pytest.raises(NotFoundError, match="not found"):
        client.diagnostics("s1")


def test_diagnostics_of_events_have_their_own_scope():
    with serving(Reply(200, b"e"), Reply(200, b"e")) as server, Client(server.url) as client:
        client.diagnostics("s1", "events")
        client.diagnostics("s1", "logs", scope="all")

    assert [(seen.path.rpartition("/")[2], seen.query) for seen in server.seen] == [
        ("events", [("scope", "runtime")]),
        ("logs", [("scope", "all")]),
    ]


def test_snapshots_are_made_read_listed_and_deleted():
    snapshot = {"id": "p1", "sandboxId": "s1", "name": "base", "status": {"state": "Creating"}}
    replies = [
        as_json(snapshot, 202),
        as_json(snapshot),
        as_json({"items": [snapshot], "pagination": {"hasNextPage": False}}),
        NO_CONTENT,
        as_json({"code": "SNAPSHOT::NOT_FOUND"}, 404),
    ]
    with serving(*replies) as server, Client(server.url) as client:
        made = client.create_snapshot("s1", "base")
        assert client.get_snapshot("p1") == made
        assert client.list_snapshots("s1", name="base") == [made]
        assert (client.delete_snapshot("p1"), client.delete_snapshot("p1")) == (True, False)

    assert (made.sandbox_id, made.state) == ("s1", "Creating")
    assert [f"{seen.method} {seen.path}" for seen in server.seen[:3]] == [
        "POST /v1/sandboxes/s1/snapshots",
        "GET /v1/snapshots/p1",
        "GET /v1/snapshots",
    ]
    assert server.seen[2].query[:2] == [("sandboxId", "s1"), ("name", "base")]


def test_the_version_is_not_below_v1():
    with serving(as_json({"version": "1.1.1"})) as server, Client(server.url) as client:
        assert client.server_version() == "1.1.1"

    assert server.seen[0].path == "/version"


def test_errors_of_the_server_are_ours_with_all_facts():
    reply = as_json({"code": "DOCKER::SANDBOX_NOT_FOUND", "message": "gone"}, 404, X_Request_ID="r7")
    with serving(reply) as server, Client(server.url) as client, pytest.raises(NotFoundError) as caught:
        client.get_sandbox("s1")

    error = caught.value
    assert (error.status, error.code, error.message, error.request_id) == (
        404,
        "DOCKER::SANDBOX_NOT_FOUND",
        "gone",
        "r7",
    )


def test_a_client_shows_its_server_and_never_its_key():
    client = Client("http://h:8080/v1", "k3y")

    assert repr(client) == "<Client http://h:8080>"
    assert "k3y" not in repr(vars(client))
    with pytest.raises(TypeError, match="key"):
        pickle.dumps(client)
