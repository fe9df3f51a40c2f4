"""Recorded traffic of a real server and its agent, played to the client: it asks the same, and reads it right."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import ApiError, AuthError, ConflictError, NotFoundError
from pytest_opensandbox.transport.endpoints import Endpoint
from tests.scripted_servers import Pause, Piece, Reply, Server, as_json, serving

AGENT = "/proxy/44772"


def recordings(topic: str) -> dict[str, dict[str, Any]]:
    entries = json.loads((Path(__file__).parent / f"{topic}.json").read_text("utf-8"))
    # Where a request was repeated, its last answer is the interesting one.
    return {entry["name"]: entry for entry in entries}


COMMANDS, FILES, ERRORS = recordings("command"), recordings("files"), recordings("errors")
LIFECYCLE, SNAPSHOTS = recordings("lifecycle"), recordings("snapshots")


def replay(entry: dict[str, Any], *, paced: bool = False) -> Reply:
    """Return the recorded answer, chunk by chunk, with its framing and, if asked for, its pace."""
    response = entry["response"]
    pieces: list[Piece] = []
    before = 0.0
    for milliseconds, chunk in response["chunks"]:
        if paced:
            pieces.append(Pause((milliseconds - before) / 1000))
            before = milliseconds
        if chunk is not None:
            pieces.append(chunk.encode())
    headers = dict(response["headers"])
    chunked = headers.pop("transfer-encoding", "") == "chunked"
    # Texts were made anonymous after their length had been noted; the largest number there is was meant.
    promised = int(headers.pop("content-length", 0))
    how: dict[str, Any] = {"promised": promised, "drop": "after"} if promised > 2**62 else {}
    return Reply(response["status"], pieces, headers, "chunked" if chunked else "length", **how)


def asked_as_recorded(server: Server, entry: dict[str, Any], *, besides: frozenset[str] = frozenset()) -> bool:
    """Tell whether the first request is the recorded one; ``besides`` names query parameters that may be added."""
    seen, request = server.seen[0], entry["request"]
    recorded = urlsplit(request["path"])
    query = [pair for pair in seen.query if pair[0] not in besides]
    assert (seen.method, seen.path) == (request["method"], recorded.path)
    assert query == [pair for pair in parse_qsl(recorded.query) if pair[0] not in besides]
    return not isinstance(request["body"], dict) or seen.json.items() >= request["body"].items()


def run_recorded(entry: dict[str, Any], *, paced: bool = False, **options: Any):
    body = entry["request"]["body"]
    asked = {"cwd": body.get("cwd"), "env": body.get("envs"), "uid": body.get("uid"), "gid": body.get("gid")}
    limit = body["timeout"] / 1000 if "timeout" in body else None
    status = as_json({"running": True})
    with serving(replay(entry, paced=paced), status, Reply(200)) as server, Client("http://127.0.0.1:1") as client:
        result = client.run_command(
            f"{server.url}{AGENT}",
            body["command"],
            timeout=limit,
            background=body.get("background", False),
            **asked,
            **options,
        )
    assert asked_as_recorded(server, entry)
    return result


@pytest.mark.parametrize(
    ("name", "stdout", "stderr", "exit_code"),
    [
        pytest.param("true", "", "", 0, id="true"),
        pytest.param("two lines", "one\ntwo", "", 0, id="two lines"),
        pytest.param("no final newline", "abc", "", 0, id="no final newline"),
        pytest.param("blank lines", "a\n\n\nb", "", 0, id="blank lines"),
        pytest.param("carriage returns", "x\ny\nz", "", 0, id="carriage returns"),
        pytest.param("bytes that are not UTF-8", "\ufffd\ufffd", "", 0, id="not UTF-8"),
        pytest.param("unicode", "héllo 🐍", "", 0, id="unicode"),
        pytest.param(
            "JSON and SSE look-alikes in the output",
            '{"type":"execution_complete"}\ndata: x\n',
            "",
            0,
            id="look-alikes",
        ),
        pytest.param("stderr", "out", "err", 0, id="stderr"),
        pytest.param("exit 3", "before", "", 3, id="exit 3"),
        pytest.param(
            "exit 127: unknown program", "", "bash: line 1: no-such-program: command not found", 127, id="exit 127"
        ),
        pytest.param("killed by a signal", "", "", -9, id="SIGKILL"),
        pytest.param("terminated by a signal", "", "", -15, id="SIGTERM"),
        pytest.param("cwd and envs", "/etc\n1-hello", "", 0, id="cwd and envs"),
        pytest.param("uid and gid", "65534\n65534", "", 0, id="uid and gid"),
        pytest.param("stdin is empty", None, "", 0, id="stdin"),
        pytest.param("one line of 200000 bytes", None, "", 0, id="long line"),
        pytest.param("slow output", None, "", 0, id="slow output"),
        pytest.param("quiet for 3.5 s (keep-alive pings)", None, "", 0, id="pings"),
        pytest.param("a child that outlives the shell", None, "", 0, id="a child that outlives the shell"),
    ],
)
def test_a_recorded_command_is_asked_for_and_read_as_it_was(name, stdout, stderr, exit_code):
    result = run_recorded(COMMANDS[name])

    assert (result.exit_code, result.stderr, result.timed_out) == (exit_code, stderr, False)
    assert stdout is None or result.stdout == stdout
    assert len(result.command_id) == 32


def test_a_recorded_line_of_200000_bytes_comes_whole():
    assert len(run_recorded(COMMANDS["one line of 200000 bytes"]).stdout) == 200_000


def test_a_recorded_syntax_error_tells_all_of_its_lines():
    result = run_recorded(COMMANDS["shell syntax error"])

    assert result.exit_code == 2
    assert len(result.stderr.split("\n")) == 2


# Played at its own pace: whether a kill was the time limit can only be told from the clock.
def test_a_recorded_time_limit_is_told_from_a_kill():
    result = run_recorded(COMMANDS["timeout after 300 ms"], paced=True)

    assert (result.timed_out, result.exit_code, result.signal, result.stdout) == (True, -9, "SIGKILL", "started")


# execd 1.0.19 ends the body a second after the last event.
def test_a_recorded_command_is_over_before_its_body_is():
    entry = COMMANDS["true"]
    heard_before_end = entry["response"]["chunks"][-2][0] / 1000
    body_end = entry["response"]["chunks"][-1][0] / 1000

    result = run_recorded(entry, paced=True)

    assert heard_before_end <= result.duration < body_end


def test_a_recorded_background_command_is_known_by_its_id():
    result = run_recorded(COMMANDS["background"])

    assert (result.exit_code, result.ok) == (None, False)
    assert result.command_id


@pytest.mark.parametrize("name", ["cwd that does not exist", "command: body is not JSON", "empty command"])
def test_a_recorded_refusal_of_a_command_carries_the_agents_words(name):
    entry = COMMANDS[name]
    recorded = json.loads(entry["response"]["chunks"][0][1])
    with serving(replay(entry)) as server, Client("http://127.0.0.1:1") as client, pytest.raises(ApiError) as caught:
        client.run_command(server.url, "true")

    assert (caught.value.status, caught.value.code) == (400, recorded["code"])
    assert caught.value.message == recorded["message"]


@pytest.mark.parametrize(("name", "running"), [("interrupt", True), ("interrupt an unknown id", False)])
def test_a_recorded_interrupt_says_whether_the_command_ran(name, running):
    entry = COMMANDS[name]
    command_id = parse_qsl(urlsplit(entry["request"]["path"]).query)[0][1]
    with serving(replay(entry)) as server, Client("http://127.0.0.1:1") as client:
        assert client.interrupt(f"{server.url}{AGENT}", command_id) is running

    assert asked_as_recorded(server, entry)


FileCall = Callable[[Client, str], Any]


@pytest.mark.parametrize(
    ("name", "call", "expected"),
    [
        pytest.param(
            "download",
            lambda c, e: c.download_file(e, "/tmp/wire/a.txt", known_file=True).read(),
            b"alpha\nbeta\n",
            id="download",
        ),
        pytest.param(
            "download a range",
            lambda c, e: c.download_file(e, "/tmp/wire/a.txt", byte_range=(2, 6), known_file=True).read(),
            b"pha\n",
            id="range",
        ),
        pytest.param(
            "download an empty file",
            lambda c, e: c.download_file(e, "/tmp/wire/empty", known_file=True).read(),
            b"",
            id="empty file",
        ),
        pytest.param(
            "info of two",
            lambda c, e: {
                path: (entry.size, entry.mode)
                for path, entry in c.files_info(e, ["/tmp/wire/a.txt", "/tmp/wire/x/y/b.sh"]).items()
            },
            {"/tmp/wire/a.txt": (11, 0o644), "/tmp/wire/x/y/b.sh": (18, 0o755)},
            id="info",
        ),
        pytest.param(
            "search **/*.sh",
            lambda c, e: [(entry.path, entry.type) for entry in c.search_files(e, "/tmp/wire", "**/*.sh")],
            [("/tmp/wire/x/y/b.sh", "file")],
            id="search",
        ),
        pytest.param("remove a file", lambda c, e: c.remove_files(e, ["/tmp/wire/moved/a.txt"]), None, id="remove"),
        pytest.param("remove a missing file", lambda c, e: c.remove_files(e, ["/tmp/wire/none"]), None, id="gone"),
        pytest.param("remove a directory", lambda c, e: c.remove_directories(e, ["/tmp/wire"]), None, id="remove tree"),
        pytest.param(
            "make directories",
            lambda c, e: c.make_directories(e, ["/tmp/wire/new/deep"], mode=0o750),
            None,
            id="make directories",
        ),
    ],
)
def test_a_recorded_file_operation_is_asked_for_and_read_as_it_was(name, call: FileCall, expected):
    with serving(replay(FILES[name])) as server, Client("http://127.0.0.1:1") as client:
        found = call(client, f"{server.url}{AGENT}")

    assert found == expected
    assert asked_as_recorded(server, FILES[name])


@pytest.mark.parametrize(
    ("name", "call", "kind", "text"),
    [
        pytest.param(
            "download a missing file",
            lambda c, e: c.download_file(e, "/x", known_file=True),
            NotFoundError,
            "none",
            id="404",
        ),
        pytest.param("info of a missing file", lambda c, e: c.files_info(e, ["/x"]), NotFoundError, "lstat", id="info"),
        pytest.param(
            "download a range past the end",
            lambda c, e: c.download_file(e, "/x", byte_range=(100, 201), known_file=True),
            ApiError,
            "failed to overlap",
            id="416",
        ),
        pytest.param(
            "download a directory",
            lambda c, e: c.download_file(e, "/x", known_file=True),
            ApiError,
            "500",
            id="a directory, with a length that is none",
        ),
        pytest.param(
            "upload onto a directory",
            lambda c, e: c.upload_files(e, [FileUpload("/x", b"a")]),
            ApiError,
            "is a directory",
            id="upload onto a directory",
        ),
        pytest.param(
            "remove a directory as a file",
            lambda c, e: c.remove_files(e, ["/x"]),
            ApiError,
            "is a directory",
            id="remove",
        ),
        pytest.param(
            "search in a missing directory", lambda c, e: c.search_files(e, "/x"), NotFoundError, "stat", id="search"
        ),
    ],
)
def test_a_recorded_refusal_of_a_file_operation_is_an_error_of_ours(name, call: FileCall, kind, text):
    with (
        serving(replay(FILES[name])) as server,
        Client("http://127.0.0.1:1") as client,
        pytest.raises(kind, match=text),
    ):
        call(client, server.url)


def test_a_recorded_create_reads_as_a_sandbox():
    entry = next(entry for entry in LIFECYCLE.values() if entry["request"]["path"] == "/v1/sandboxes")
    body = entry["request"]["body"]
    opts = SandboxOpts(
        image=body["image"]["uri"],
        timeout=body["timeout"],
        resource_limits=body["resourceLimits"],
        metadata=body["metadata"],
        env=body["env"],
    )
    with serving(replay(entry)) as server, Client(server.url, "key") as client:
        sandbox = client.create_sandbox(opts)

    assert asked_as_recorded(server, entry)
    assert sandbox.is_running
    assert sandbox.metadata == body["metadata"]
    assert sandbox.created_at is not None
    assert sandbox.created_at.tzinfo is timezone.utc


@pytest.mark.parametrize(
    ("name", "labels", "count"),
    [
        ("list by one tag", {"suite": "wire"}, 1),
        ("list by two tags", {"suite": "wire", "case": "a"}, 1),
        ("list by two tags, none match", {"suite": "wire", "case": "zzz"}, 0),
    ],
)
def test_a_recorded_listing_is_asked_for_by_one_parameter(name, labels, count):
    with serving(replay(LIFECYCLE[name])) as server, Client(server.url) as client:
        found = client.list_sandboxes(labels)

    assert asked_as_recorded(server, LIFECYCLE[name], besides=frozenset({"page", "pageSize"}))
    assert len(found) == count


def test_recorded_pages_are_put_together():
    pages = [LIFECYCLE["list page 1 of 2"], LIFECYCLE["list page 2 of 2"]]
    with serving(*map(replay, pages)) as server, Client(server.url) as client:
        found = client.list_sandboxes({"suite": "wire"})

    assert len(found) == 3
    assert [dict(seen.query)["page"] for seen in server.seen] == ["1", "2"]


def test_a_recorded_dead_sandbox_says_why():
    with serving(replay(LIFECYCLE["list: entrypoint exited 1"])) as server, Client(server.url) as client:
        (sandbox,) = client.list_sandboxes({"case": "dead"})

    assert (sandbox.state, sandbox.reason) == ("Failed", "CONTAINER_EXITED_ERROR")
    assert sandbox.is_final


@pytest.mark.parametrize(
    ("name", "proxy", "url"),
    [
        ("endpoint of execd", False, "http://127.0.0.1:43350/proxy/44772"),
        (
            # Recorded at another port: the server's proxy is where the server was asked.
            "endpoint of execd through the server",
            True,
            "{server}/v1/sandboxes/df78237d-d141-4f47-937c-637575f6da87/proxy/44772",
        ),
    ],
)
def test_a_recorded_endpoint_gets_a_scheme(name, proxy, url):
    sandbox_id = LIFECYCLE[name]["request"]["path"].split("/")[3]
    with serving(replay(LIFECYCLE[name])) as server, Client(server.url, use_server_proxy=proxy) as client:
        endpoint = client.discover_execd(sandbox_id)

    assert asked_as_recorded(server, LIFECYCLE[name])
    assert endpoint == Endpoint(url.format(server=server.url), sandbox_id=sandbox_id)


def test_a_recorded_renewal_tells_the_new_end():
    entry = LIFECYCLE["renew"]
    with serving(replay(entry)) as server, Client(server.url) as client:
        until = client.renew(entry["request"]["path"].split("/")[3], 3600)

    assert until == datetime(2026, 11, 23, 12, 54, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(("name", "deleted"), [("delete", True), ("delete again", False)])
def test_a_recorded_delete_is_a_success_also_the_second_time(name, deleted):
    entry = LIFECYCLE[name]
    with serving(replay(entry)) as server, Client(server.url) as client:
        assert client.delete_sandbox(entry["request"]["path"].split("/")[3]) is deleted

    assert asked_as_recorded(server, entry)


def test_recorded_snapshots_are_read():
    with (
        serving(replay(SNAPSHOTS["snapshot create"]), replay(SNAPSHOTS["snapshot list"])) as server,
        Client(server.url) as client,
    ):
        made = client.create_snapshot("b3cb5173-2cf0-4cc0-9724-6f969ec14f63", "base")
        (listed,) = client.list_snapshots(made.sandbox_id)

    assert asked_as_recorded(server, SNAPSHOTS["snapshot create"])
    assert (made.state, listed.state, made.id == listed.id) == ("Creating", "Ready", True)


KINDS = {401: AuthError, 404: NotFoundError, 409: ConflictError}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=name)
        for topic in (ERRORS, LIFECYCLE, SNAPSHOTS)
        for name, entry in topic.items()
        if entry["response"]["status"] >= 400
    ],
)
def test_every_recorded_error_of_the_server_has_status_message_and_request_id(entry):
    response = entry["response"]
    with serving(replay(entry)) as server, Client(server.url, "key") as client, pytest.raises(ApiError) as caught:
        client.create_sandbox(SandboxOpts(image="x"))

    error = caught.value
    body = json.loads(response["chunks"][0][1])
    assert type(error) is KINDS.get(response["status"], ApiError)
    assert (error.status, error.code) == (response["status"], body.get("code", ""))
    assert error.request_id == response["headers"]["x-request-id"]
    assert error.message
    assert "{" not in error.message
