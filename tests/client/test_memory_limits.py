"""A few bytes of JSON become many in memory: what a server or a sandbox sends is refused before it does."""

import itertools
import json
import subprocess
import sys

import pytest

from pytest_opensandbox import Client, SandboxResponse
from pytest_opensandbox.client.sandboxes import ListingLimits, read_listing
from pytest_opensandbox.errors import ApiError, ProtocolError
from pytest_opensandbox.transport.response import JsonLimitError, read_json
from pytest_opensandbox.transport.transport import Transport
from tests.scripted_servers import Reply, as_json, serving

pytestmark = pytest.mark.thorough

JSON = {"Content-Type": "application/json"}
MEBIBYTE = 1024 * 1024
MOST_MEBIBYTES = 350
"""What a call may take at its worst, with Python's own; each of these took more than a gigabyte."""

PROGRAM = """
import re, sys
from pathlib import Path
from pytest_opensandbox import Client, Endpoint, OpenSandboxError

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

url, call = sys.argv[1:]
client = Client(url)
Path("/proc/self/clear_refs").write_text("5")
before = most()
try:
    found = eval(call)
    print("found", len(found) if hasattr(found, "__len__") else found, end=" ")
except OpenSandboxError as exc:
    print(type(exc).__name__, end=" ")
print((most() - before) // 1024)
"""


def reply(piece, size, *, before=b"", after=b"", **how):
    """Return a reply that repeats a piece until it has the size, sent in bits of a mebibyte."""
    bit = piece * (MEBIBYTE // len(piece) + 1)
    return Reply(200, [before, *itertools.repeat(bit, size // len(bit)), piece.rstrip(b","), after], **how)


SEARCH = "client.search_files(url, '/')"
INFO = "client.files_info(url, ['/a'])"
COMMAND = "client.run_command(Endpoint(url), 'true')"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process's memory from /proc")
@pytest.mark.parametrize(
    ("call", "replies"),
    [
        pytest.param(
            COMMAND,
            lambda: [reply(b"[],", 60 * MEBIBYTE, before=b'{"type":"stdout","text":[', after=b"]}\n\n")],
            id="an event of lists",
        ),
        pytest.param(
            COMMAND,
            lambda: [reply(b'"",', 60 * MEBIBYTE, before=b'{"type":"error","error":{"traceback":[', after=b"]}}\n\n")],
            id="an event of empty texts",
        ),
        pytest.param(COMMAND, lambda: [reply(b"[", 60 * MEBIBYTE, before=b'{"a":')], id="an event of brackets"),
        pytest.param(
            COMMAND,
            lambda: [
                reply(
                    b"x",
                    31 * MEBIBYTE,
                    before=b'{"type":"init"}\n{"type":"stdout","text":"\\ud83d\\ude00',
                    after=b'"}\n',
                )
            ],
            id="an event of wide text",
        ),
        pytest.param(
            SEARCH, lambda: [reply(b'{"path":"/a","size":1},', 48 * MEBIBYTE, before=b"[", after=b"]")], id="files"
        ),
        pytest.param(
            SEARCH,
            lambda: [reply(b'{"path":"/a","size":1},', 2 * MEBIBYTE, before=b"[", after=b"]")],
            id="as many files as allowed",
        ),
        pytest.param(SEARCH, lambda: [reply(b"{},", 31 * MEBIBYTE, before=b"[", after=b"]")], id="files that are none"),
        pytest.param(INFO, lambda: [reply(b"[],", 48 * MEBIBYTE, before=b'{"/a":[', after=b"]}")], id="info"),
        pytest.param(
            "client.list_sandboxes()",
            lambda: [page(b'{"id":"%d","metadata":{%s}},', number) for number in range(1000)],
            id="a thousand pages",
        ),
        pytest.param(
            "client.list_sandboxes()",
            lambda: [reply(b'{"id":"a1"},', 60 * MEBIBYTE, before=b"[", after=b"]")],
            id="a page of sandboxes",
        ),
        pytest.param(
            "client.discover_execd('a')",
            lambda: [reply(b"[],", 60 * MEBIBYTE, before=b'{"endpoint":"a","headers":[', after=b"]}")],
            id="an endpoint",
        ),
        pytest.param(
            "client.get_sandbox('a')",
            lambda: [reply(b'"k":"v",', 60 * MEBIBYTE, before=b'{"id":"a","metadata":{', after=b"}}")],
            id="metadata",
        ),
        pytest.param(
            "client.diagnostics('a')",
            lambda: [reply(b"[],", 60 * MEBIBYTE, before=b'{"delivery":[', after=b"]}", headers=JSON)],
            id="diagnostics",
        ),
        pytest.param(
            "client.get_sandbox('a')",
            lambda: [Reply(400, [b"[],".join([b"["] + [b""] * MEBIBYTE)] * 20)],
            id="an error",
        ),
        pytest.param("client.ping(url)", lambda: [reply(b"x", 60 * MEBIBYTE)], id="a ping"),
    ],
)
def test_what_a_call_takes_is_bounded(call, replies):
    with serving(*replies()) as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.url, call], capture_output=True, text=True, timeout=300, check=True
        )

    outcome, _, grown = done.stdout.strip().rpartition(" ")
    assert outcome
    assert int(grown) < MOST_MEBIBYTES, done.stdout


def page(entry, number):
    labels = b",".join(b'"k%d":"v"' % label for label in range(300))
    items = b"".join(entry % (200 * number + item, labels) for item in range(40))
    return Reply(200, b'{"items":[' + items.rstrip(b",") + b'],"pagination":{"hasNextPage":true}}')


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b"[]," * 20_000 + b"[]]", id="lists"),
        pytest.param(b'["' + b'","' * 20_000 + b'"]', id="texts"),
        pytest.param(b"[" + b"1," * 20_000 + b"1]", id="numbers"),
        pytest.param(b"{" + b'"a":1,' * 20_000 + b'"a":1}', id="one name again and again"),
        pytest.param(b"[" * 200 + b"]" * 200, id="lists in lists"),
        pytest.param(b'{"a":' * 200 + b"1" + b"}" * 200, id="objects in objects"),
        pytest.param(b"9" * 500, id="a number of 500 digits"),
        pytest.param(b"[" * 100_000, id="brackets without end"),
    ],
)
def test_what_would_become_too_much_is_refused_before_it_is_made(body):
    with pytest.raises(JsonLimitError):
        read_json(body)


# A test suite may have raised the limit, and then the reader of Python's own would run out of stack.
def test_nesting_is_refused_whatever_the_recursion_limit():
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(JsonLimitError):
            read_json(b"[" * 300_000)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "", "{", "[1,]", "\xff"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        read_json(text.encode("latin-1"))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"text": "[],{}," * 50_000}, id="brackets in a text"),
        pytest.param({"text": '\\"[],' * 50_000}, id="quotation marks in a text"),
        pytest.param({"text": "\\" * 50_001 + "[,"}, id="backslashes in a text"),
        pytest.param([[{"a": [number]}] for number in range(1000)], id="an ordinary list"),
    ],
)
def test_what_is_in_a_text_does_not_count(value):
    assert read_json(json.dumps(value).encode()) == value


def test_of_one_name_that_comes_twice_the_last_value_counts():
    assert read_json(b'{"id": "a", "id": "b"}') == {"id": "b"}


@pytest.mark.parametrize("field", ["message", "code"])
def test_an_error_that_is_nested_deeper_than_any_stack_is_still_that_error(field):
    body = b'{"' + field.encode() + b'":' + b"[" * 900 + b"]" * 900 + b"}"
    with serving(Reply(409, body)) as server, Client(server.url) as client, pytest.raises(ApiError, match="409"):
        client.pause("a")


def list_all(server, limits):
    return read_listing(Transport(server.url), "/sandboxes", (), SandboxResponse.from_wire, limits=limits)


def test_a_listing_without_end_is_left():
    more = {"pagination": {"hasNextPage": True}}
    pages = [as_json({"items": [{"id": f"s{number}"}], **more}) for number in range(9)]

    with serving(*pages) as server, pytest.raises(ProtocolError, match="more than 5 pages"):
        list_all(server, ListingLimits(pages=5))

    assert len(server.seen) == 5


def test_a_listing_has_no_more_entries_than_are_allowed():
    pages = [
        as_json({"items": [{"id": f"s{number}-{item}"} for item in range(3)], "pagination": {"hasNextPage": True}})
        for number in range(9)
    ]
    with serving(*pages) as server, pytest.raises(ProtocolError, match="more than 5 entries"):
        list_all(server, ListingLimits(entries=5))

    assert len(server.seen) == 2


def test_the_pages_of_a_listing_share_the_bytes_that_are_allowed():
    pages = [
        as_json({"items": [{"id": f"s{number}", "x": "y" * 300}], "pagination": {"hasNextPage": True}})
        for number in range(9)
    ]
    with serving(*pages) as server, pytest.raises(ProtocolError, match="more than"):
        list_all(server, ListingLimits(bytes=1000))

    assert len(server.seen) == 3
