"""What the wire carries, read with tolerance for what is new and none for what is missing."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pytest_opensandbox.client.models import FileInfo, FileUpload, SandboxResponse, Snapshot, parse_time, read_files
from pytest_opensandbox.errors import ConfigError, ProtocolError
from pytest_opensandbox.transport.endpoints import Endpoint

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        pytest.param("2026-11-23T12:00:00Z", NOON, id="Z"),
        pytest.param("2026-11-23T12:00:00z", NOON, id="z"),
        pytest.param("2026-11-23T13:00:00+01:00", NOON, id="offset"),
        pytest.param("2026-11-23T12:00:00", NOON, id="no zone is UTC"),
        pytest.param("2026-11-23T12:00:00.5Z", NOON + timedelta(milliseconds=500), id="one digit"),
        pytest.param("2026-11-23T12:00:00.123456789Z", NOON + timedelta(microseconds=123456), id="nine digits"),
        pytest.param("soon", None, id="no time"),
        pytest.param(None, None, id="null"),
        pytest.param(5, None, id="a number"),
    ],
)
def test_times_are_read_with_any_number_of_digits(text, moment):
    assert parse_time(text) == moment


def test_a_sandbox_is_read_whole():
    sandbox = SandboxResponse.from_wire(
        {
            "id": "s1",
            "status": {"state": "Failed", "reason": "R", "message": "M"},
            "image": {"uri": "x:1"},
            "metadata": {"a": "b"},
            "createdAt": "2026-11-23T12:00:00Z",
            "expiresAt": "2026-11-23T12:00:00Z",
        }
    )

    assert sandbox == SandboxResponse(
        "s1", "Failed", "R", "M", image="x:1", metadata={"a": "b"}, created_at=NOON, expires_at=NOON
    )
    assert sandbox.is_final


@pytest.mark.parametrize("status", [None, "Running", {}, {"state": None}])
def test_a_sandbox_without_a_state_has_an_empty_one(status):
    assert SandboxResponse.from_wire({"id": "s1", "status": status, "metadata": None}).state == ""


@pytest.mark.parametrize("body", [None, [], "s1", {}, {"id": ""}])
@pytest.mark.parametrize("kind", [SandboxResponse, Snapshot])
def test_what_has_no_id_is_a_protocol_error(kind, body):
    with pytest.raises(ProtocolError, match="id"):
        kind.from_wire(body)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [("http://h:81/x", "h", 81), ("http://h", "h", 80), ("https://h", "h", 443), ("http://[::1]:5", "::1", 5)],
)
def test_an_endpoint_knows_its_host_and_port(url, host, port):
    assert (Endpoint(url).host, Endpoint(url).port) == (host, port)


def test_an_endpoints_headers_may_be_secrets_and_are_not_shown():
    assert "t0ken" not in repr(Endpoint("http://h", {"X-Auth": "t0ken"}))


def test_a_files_mode_is_read_from_decimal_digits():
    assert FileInfo.from_wire({"path": "/a", "size": 1, "mode": 755}).mode == 0o755


@pytest.mark.parametrize(
    "body", [None, "x", {}, {"path": "/a"}, {"path": "/a", "size": "big"}, {"path": "/a", "size": 1, "mode": 999}]
)
def test_a_files_entry_of_another_shape_is_a_protocol_error(body):
    with pytest.raises(ProtocolError, match="entry"):
        FileInfo.from_wire(body)


def test_an_older_agents_entry_does_not_say_what_it_is():
    assert FileInfo.from_wire({"path": "/a", "size": 1}).type == ""


def test_a_search_that_is_no_list_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="list"):
        list(read_files({"a": 1}))


@pytest.mark.parametrize(
    ("field", "values"), [("path", ("a", b"")), ("path", ("/a\0", b"")), ("mode", ("/a", b"", 0o1000))]
)
def test_an_upload_that_breaks_a_rule_is_refused(field, values):
    with pytest.raises(ConfigError) as caught:
        FileUpload(*values)

    assert caught.value.field == field


def test_an_uploads_content_is_not_shown():
    assert "secret" not in repr(FileUpload("/a", b"secret")) + repr(FileUpload("/a", Path("/secret")))
