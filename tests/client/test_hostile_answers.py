"""What the client makes of a server or an agent that lies: an error of ours, and nothing else asked for."""

import itertools
import json
import threading

import pytest

from pytest_opensandbox import Client, Endpoint
from pytest_opensandbox.errors import (
    ApiError,
    CommandError,
    CommandLostError,
    FileTooLargeError,
    OpenSandboxError,
    ProtocolError,
    SandboxFailedError,
    SkippedFileWarning,
)
from pytest_opensandbox.transport.timeouts import Timeouts
from tests.scripted_servers import Pause, Reply, as_events, as_json, dripping, saying, serving

INIT = {"type": "init", "text": "c0ffee"}
OK = b"HTTP/1.1 200 OK\r\n"
MEBIBYTE = 1024 * 1024


def test_a_download_that_drips_is_not_waited_for():
    drip = dripping(OK + b"Content-Length: 1000\r\n\r\n", b"x")

    with saying(drip, pause=0.02) as url, pytest.raises(ProtocolError, match="too slowly"):
        Client("http://127.0.0.1:1", timeouts=Timeouts(transfer_seconds=0.3)).download_file(
            url, "/a", known_file=True
        ).read()


# Only what the other side makes us wait for counts.
def test_a_download_may_be_read_slowly():
    impatient = Timeouts(transfer_seconds=0.1)
    with serving(Reply(200, [b"a", Pause(0.01), b"b"])) as server:
        read = []
        for piece in Client(server.url, timeouts=impatient).download_file(server.url, "/a", known_file=True):
            read.append(piece)
            threading.Event().wait(0.3)

    assert b"".join(read) == b"ab"


def test_a_ping_that_drips_is_not_waited_for():
    drip = dripping(OK + b"Content-Length: 1000\r\n\r\n", b"x")

    with saying(drip, pause=0.02) as url, pytest.raises(OpenSandboxError):
        Client("http://127.0.0.1:1").ping(url, timeout=0.3)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"/a":{"path":"/a","size":-1}}', id="a negative size"),
        pytest.param('{"/a":{"path":"/a","size":NaN}}', id="not a number"),
        pytest.param('{"/a":{"path":"/a","size":1e999}}', id="an infinite size"),
        pytest.param('{"/a":{"path":"/a","size":[]}}', id="a list for a size"),
        pytest.param('{"/a":{"path":"/a","size":1,"mode":"rwx"}}', id="a mode in letters"),
        pytest.param('{"/b":{"path":"/b","size":1}}', id="another file"),
        pytest.param('[{"path":"/a","size":1}]', id="a list of files"),
        pytest.param('{"/a":' * 200_000, id="deeper than any stack"),
    ],
)
def test_a_file_that_cannot_be_is_a_protocol_error(text):
    with serving(Reply(200, text.encode())) as server, pytest.raises(ProtocolError):
        Client(server.url).files_info(server.url, ["/a"])


@pytest.mark.parametrize("mode", [7777777, -755, "37777777777"])
def test_a_mode_has_no_more_bits_than_modes_have(mode):
    with serving(as_json({"/a": {"path": "/a", "size": 3, "mode": mode}})) as server:
        read = Client(server.url).files_info(server.url, ["/a"])["/a"].mode

    assert 0 <= read <= 0o7777


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(206, b"x" * 1000), id="announced"),
        pytest.param(Reply(206, [b"x" * 50] * 100, framing="chunked"), id="not announced"),
        pytest.param(Reply(206, [b"x" * 50] * 100, framing="close"), id="to the end of the connection"),
        pytest.param(Reply(206, b"x", promised=2**62 - 1), id="more than any disk"),
    ],
)
def test_no_more_is_taken_than_the_part_that_was_asked_for(reply):
    with serving(reply) as server, pytest.raises(ProtocolError):
        Client(server.url).download_file(server.url, "/a", byte_range=(0, 100), known_file=True).read()


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"type": "stdout", "text": "again"}, id="output"),
        pytest.param({"type": "ping"}, id="pings"),
        pytest.param(INIT, id="beginnings"),
        pytest.param({"type": "made up", "error": 5}, id="an unknown type"),
    ],
)
def test_events_without_end_do_not_hold_a_command_beyond_its_limit(event):
    line = json.dumps(event).encode() + b"\n\n"
    pieces = itertools.chain.from_iterable((line, Pause(0.01)) for _ in range(2000))

    with serving(as_events(INIT, *pieces), Reply(200)) as server, pytest.raises(TimeoutError):
        Client(server.url, timeouts=Timeouts(grace_seconds=0.2)).run_command(Endpoint(server.url), "true", timeout=0.1)


@pytest.mark.parametrize("identifier", ["..", "../../sandboxes", "a b\r\nX: y", "\0", "?id=1", "é" * 5000])
def test_an_odd_id_of_a_command_asks_for_nothing_else(identifier):
    begun = as_events({"type": "init", "text": identifier})

    with serving(begun, as_json({}, 404), as_json({}, 404)) as server, pytest.raises(CommandLostError):
        Client(server.url).run_command(Endpoint(server.url), "true")

    asked = {(seen.method, seen.path.rpartition("/")[0]) for seen in server.seen[1:]}
    assert asked <= {("GET", "/command/status"), ("DELETE", "")}


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest", "file:///etc/passwd", "//evil", "\x1b]0;x\x07", "/v1/sandboxes"]
)
@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_leads_nowhere(status, location):
    with serving(Reply(status, headers={"Location": location})) as server, pytest.raises(ApiError) as caught:
        Client(server.url, "key").list_sandboxes()

    assert len(server.seen) == 1
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1@evil", "evil\r\nX: y", "file:///x", "unix:///x", "h:99999999", "h:-1", "[::1", "", "h?x=y", "h#x"],
)
def test_an_endpoint_that_is_no_address_is_refused(address):
    with serving(as_json({"endpoint": address})) as server, pytest.raises(ProtocolError):
        Client(server.url).discover_execd("s1")


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\rhidden\u202egpj\u2028"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(CommandError("true", exit_code=1, stdout=HOSTILE, stderr=HOSTILE), id="output"),
        pytest.param(FileTooLargeError(f"/{HOSTILE}", size_bytes=2, max_bytes=1), id="a file's name"),
        pytest.param(ProtocolError(f"/{HOSTILE}: 1 bytes were promised"), id="an agent's word"),
        pytest.param(SandboxFailedError(sandbox_id=HOSTILE, state=HOSTILE, logs=HOSTILE), id="a log"),
        pytest.param(ApiError(500, code=HOSTILE, message=HOSTILE, request_id=HOSTILE), id="a server's word"),
        pytest.param(CommandLostError(HOSTILE), id="how a connection broke"),
        pytest.param(SkippedFileWarning(f"left out {HOSTILE}"), id="a warning"),
    ],
)
def test_no_error_can_steer_the_terminal(error):
    text = str(error)

    assert all(char.isprintable() or char == "\n" for char in text)
    assert "\\x1b]0;title" in text


KEY = "c2VjcmV0LWtleQ/+=="


@pytest.mark.parametrize("key", [pytest.param(KEY, id="a long key"), pytest.param("a/key=", id="a short key")])
@pytest.mark.parametrize(
    ("status", "text"),
    [
        pytest.param(401, '{"code": "X", "message": "not KEY"}', id="a message"),
        pytest.param(401, '{"code": "KEY", "message": "x"}', id="a code"),
        pytest.param(422, '{"detail": [{"loc": ["KEY"], "msg": "KEY"}]}', id="a validation error"),
        pytest.param(500, '{"detail": {"headers": "KEY"}}', id="a detail"),
        pytest.param(200, "you sent KEY", id="no JSON"),
        pytest.param(200, '{"KEY": "KEY"}', id="no listing"),
    ],
)
def test_a_server_that_echoes_the_key_does_not_bring_it_into_an_error(status, text, key):
    written = key.replace("/", "\\/").replace("=", "\\u003d") if text.startswith("{") else key

    with (
        serving(Reply(status, text.replace("KEY", written).encode())) as server,
        pytest.raises(OpenSandboxError) as caught,
    ):
        Client(server.url, key).list_sandboxes()

    shown = f"{caught.value} {caught.value!r}"
    assert "***" in shown
    assert key not in shown


def test_what_an_error_carries_stays_as_it_was():
    assert CommandError("true", exit_code=1, stdout=HOSTILE).stdout == HOSTILE


def test_a_search_without_an_answer_is_no_search_that_found_nothing():
    with serving(Reply(200)) as server, pytest.raises(ProtocolError):
        Client(server.url).search_files(server.url, "/a")


# A chunk that was sent twice shifts the content, and its end is lost behind the promised length.
def test_bytes_behind_the_end_of_a_file_mean_that_it_may_not_be_the_file():
    with serving(Reply(200, b"abcdbcdef", promised=6)) as server, pytest.raises(ProtocolError, match="more came"):
        Client(server.url).download_file(server.url, "/a", known_file=True).read()
