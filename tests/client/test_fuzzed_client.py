"""Every operation of the client, with answers that no server gives and arguments that no caller gives."""

import json
import socket
import threading
from contextlib import contextmanager, suppress
from datetime import datetime
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_opensandbox import Client, Endpoint, FileUpload, OpenSandboxError, ProtocolError, SandboxOpts
from pytest_opensandbox.sandbox.lease import Lease
from pytest_opensandbox.transport.retry import time_limit
from tests.scripted_servers import Reply, as_json, serving

pytestmark = pytest.mark.thorough

OPTS = SandboxOpts(image="a", timeout=60)
SHORT = 0.2


class Babbler:
    """A server that answers every request with the same bytes, and then closes the connection."""

    def __init__(self):
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                with suppress(OSError), connection:
                    connection.settimeout(5)
                    head = b""
                    while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                        head += piece
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        continue

    def close(self):
        """Stop serving."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def babbler():
    server = Babbler()
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(babbler):
    with Client(babbler.url, "key", request_timeout=5, create_timeout=5) as client:
        yield client


OPERATIONS = {
    "create": lambda c, url: c.create_sandbox(OPTS),
    "get": lambda c, url: c.get_sandbox("a"),
    "list": lambda c, url: c.list_sandboxes({"a": "b"}, states=["Running"]),
    "delete": lambda c, url: c.delete_sandbox("a"),
    "renew": lambda c, url: c.renew("a", 60),
    "pause": lambda c, url: c.pause("a"),
    "resume": lambda c, url: c.resume("a"),
    "wait paused": lambda c, url: c.wait_paused("a", timeout=0.05),
    "wait ready": lambda c, url: c.wait_ready("a", timeout=0.05),
    "endpoint": lambda c, url: c.discover_execd("a"),
    "signed": lambda c, url: c.get_endpoint("a", 80, signed_for=60),
    "metadata": lambda c, url: c.patch_metadata("a", {"b": None}),
    "logs": lambda c, url: c.diagnostics("a"),
    "snapshot": lambda c, url: c.create_snapshot("a", "b"),
    "get snapshot": lambda c, url: c.get_snapshot("a"),
    "wait snapshot": lambda c, url: c.wait_snapshot_ready("a", timeout=0.05),
    "snapshots": lambda c, url: c.list_snapshots(),
    "delete snapshot": lambda c, url: c.delete_snapshot("a"),
    "version": lambda c, url: c.server_version(),
    "health": lambda c, url: c.check_alive(timeout=SHORT),
    "time": lambda c, url: c.server_time(),
    "ping": lambda c, url: c.ping(url, timeout=SHORT),
    "info": lambda c, url: c.files_info(url, ["/a", "/b"]),
    "search": lambda c, url: c.search_files(url, "/a"),
    "remove": lambda c, url: c.remove_files(url, ["/a"]),
    "make": lambda c, url: c.make_directories(url, ["/a"]),
    "remove directories": lambda c, url: c.remove_directories(url, ["/a"]),
    "upload": lambda c, url: c.upload_files(url, [FileUpload("/a", b"abc")]),
    "download": lambda c, url: c.download_file(url, "/a").read(),
    "known download": lambda c, url: c.download_file(url, "/a", known_file=True, byte_range=(0, 5)).read(),
    "command": lambda c, url: c.run_command(Endpoint(url, sandbox_id="a"), "true", timeout=SHORT),
    "background": lambda c, url: c.run_command(Endpoint(url, sandbox_id="a"), "true", background=True),
    "interrupt": lambda c, url: c.interrupt(url, "a"),
}

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        [10**30, -(10**30), 1e308, "", "a", "\ud800", "\0", "\x1b[2J", "9999-12-31T23:59:59-23:59", "é" * 600]
    ),
    st.text(max_size=20),
)
JSONS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "id status state reason message image uri snapshotId metadata createdAt expiresAt sandboxId name items pagination"
    " hasNextPage endpoint headers delivery content code detail loc msg error version path size mode type owner group"
    " modified_at text timestamp execution_time ename evalue traceback running exit_code /a /b"
).split()
SHAPED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=25,
)
VALID = st.sampled_from(
    [
        {"id": "a", "status": {"state": "Running"}},
        {"id": "a", "status": {"state": "Ready"}},
        {"items": [{"id": "a"}], "pagination": {"hasNextPage": True}},
        {"endpoint": "127.0.0.1:1/a", "headers": {"X-A": "b"}},
        {"/a": {"path": "/a", "size": 3}, "/b": {"path": "/b", "size": 3}},
        [{"path": "/a", "size": 3}],
        {"type": "init", "text": "c1"},
        {"type": "error", "error": {"ename": "CommandExecError", "evalue": "-1", "traceback": None}},
        {"delivery": "inline", "content": "log"},
        {"detail": [{"loc": ["body", 5], "msg": "no"}]},
    ]
)


@st.composite
def bent(draw):
    """Return a valid answer, one of its values replaced."""
    value = json.loads(json.dumps(draw(VALID)))
    inside = value[0] if isinstance(value, list) else value
    if draw(st.booleans()):
        inside = next((one for one in inside.values() if isinstance(one, dict)), inside)
    inside[draw(st.sampled_from([*inside, *NAMES]))] = draw(SHAPED)
    return value


BODIES = st.one_of(
    st.binary(max_size=300),
    st.one_of(JSONS, SHAPED, bent(), VALID).map(lambda value: json.dumps(value).encode()),
    st.lists(st.one_of(bent(), VALID), max_size=4).map(
        lambda events: b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    ),
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            "Date Content-Type Content-Length Content-Encoding Transfer-Encoding Location Retry-After Set-Cookie"
            " X-Request-ID Connection Content-Range Link WWW-Authenticate Proxy-Authenticate Upgrade Trailer".split()
        ),
        st.one_of(
            st.sampled_from(
                [
                    "Fri, 31 Dec 9999 23:59:59 GMT",
                    "Mon, 01 Jan 0001 00:00:00 GMT",
                    "Fri, 31 Dec 9999 23:59:59 -2359",
                    "Thu, 01 Jan 1970 00:00:00 +9999",
                    "application/json",
                    "text/event-stream; charset=utf-16",
                    'text/plain; charset="',
                    "gzip",
                    "chunked",
                    "-1",
                    "5, 6",
                    "9" * 5000,
                    "http://[",
                    "http://[::1",
                    "//\x7f",
                    "nan",
                    "1e999",
                    "a=b; Expires=Fri, 31 Dec 9999 23:59:59 GMT; Max-Age=99999999999999999999999",
                    'a="; Version=x; Port="q"; expires=' + "1" * 400,
                    "close",
                    "bytes 0-5/x",
                    "",
                ]
            ),
            st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30),
        ),
    ),
    max_size=5,
)
STATUSES = st.one_of(
    st.sampled_from([200, 200, 200, 202, 204, 206, 301, 302, 400, 404, 409, 500, 503]), st.integers(0, 1200)
)


@st.composite
def answers(draw):
    """Return an answer as bytes, mostly with the length that it has."""
    body = draw(BODIES)
    head = [b"HTTP/1.%d %03d Said" % (draw(st.sampled_from([1, 1, 1, 0])), draw(STATUSES))]
    head += [f"{name}: {value}".encode("latin-1") for name, value in draw(HEADERS)]
    if draw(st.integers(0, 3)):
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@given(answer=st.one_of(answers(), st.binary(max_size=200)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_ends_in_a_result_or_an_error_of_ours(babbler, client, answer):
    babbler.answer = answer
    for name, perform in OPERATIONS.items():
        with time_limit(SHORT), ours(name):
            perform(client, babbler.url)


TEXTS = st.one_of(
    st.sampled_from(["", "/", ".", "..", "a/../b", "\ud800", "\0", "/\ud800", "/a\0", "$HOME", "/$x"]),
    st.text(max_size=12),
)
SECONDS = st.one_of(st.floats(), st.integers(), st.sampled_from([0, -1, 1e300, 10**400, 2**63]))
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=3)
ARGUMENTS = {
    "get": (TEXTS, lambda c, url, a: c.get_sandbox(a)),
    "list": (LABELS, lambda c, url, a: c.list_sandboxes(a)),
    "states": (st.lists(TEXTS, max_size=2), lambda c, url, a: c.list_sandboxes(states=a)),
    "renew": (SECONDS, lambda c, url, a: c.renew("a", a)),
    "renewed": (TEXTS, lambda c, url, a: c.renew(a, 60)),
    "wait ready": (SECONDS, lambda c, url, a: c.wait_ready("a", timeout=a)),
    "wait paused": (SECONDS, lambda c, url, a: c.wait_paused("a", timeout=a)),
    "wait snapshot": (SECONDS, lambda c, url, a: c.wait_snapshot_ready("a", timeout=a)),
    "port": (st.integers(), lambda c, url, a: c.get_endpoint("a", a)),
    "signed": (SECONDS, lambda c, url, a: c.get_endpoint("a", 80, signed_for=a)),
    "metadata": (LABELS, lambda c, url, a: c.patch_metadata("a", a)),
    "diagnostics": (TEXTS, lambda c, url, a: c.diagnostics("a", a, scope=a)),
    "snapshot": (TEXTS, lambda c, url, a: c.create_snapshot("a", a)),
    "snapshots": (TEXTS, lambda c, url, a: c.list_snapshots(a, a)),
    "health": (SECONDS, lambda c, url, a: c.check_alive(timeout=a)),
    "ping": (SECONDS, lambda c, url, a: c.ping(url, timeout=a)),
    "address": (TEXTS.map(lambda text: f"http://{text}"), lambda c, url, a: c.ping(a, timeout=SHORT)),
    "endpoint": (TEXTS.map(lambda text: f"http://{text}"), lambda c, url, a: c.ping(Endpoint(a), timeout=SHORT)),
    "headers": (LABELS, lambda c, url, a: c.ping(Endpoint(url, a), timeout=SHORT)),
    "info": (st.lists(TEXTS, max_size=3), lambda c, url, a: c.files_info(url, a)),
    "search": (TEXTS, lambda c, url, a: c.search_files(url, "/a", a)),
    "remove": (TEXTS, lambda c, url, a: c.remove_files(url, [a])),
    "make": (st.integers(), lambda c, url, a: c.make_directories(url, ["/a"], mode=a)),
    "upload": (st.tuples(TEXTS, st.integers()), lambda c, url, a: c.upload_files(url, [FileUpload(a[0], b"x", a[1])])),
    "download": (
        st.tuples(st.integers(), st.none() | st.integers()),
        lambda c, url, a: c.download_file(url, "/a", byte_range=a),
    ),
    "command": (TEXTS | st.lists(TEXTS, max_size=3), lambda c, url, a: c.run_command(url, a)),
    "cwd": (TEXTS, lambda c, url, a: c.run_command(url, "true", cwd=a)),
    "env": (LABELS, lambda c, url, a: c.run_command(url, "true", env=a)),
    "timeout": (SECONDS, lambda c, url, a: c.run_command(url, "true", timeout=a)),
    "user": (st.integers(), lambda c, url, a: c.run_command(url, "true", uid=a, gid=a)),
    "kept": (st.integers(), lambda c, url, a: c.run_command(url, "true", max_bytes=a)),
    "interrupt": (TEXTS, lambda c, url, a: c.interrupt(url, a)),
    "client": (SECONDS, lambda c, url, a: Client(url, request_timeout=a, create_timeout=a).close()),
    "key": (TEXTS, lambda c, url, a: Client(url, a).close()),
    "url": (TEXTS, lambda c, url, a: Client(f"http://{a}").close()),
}


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_any_argument_ends_in_a_result_or_an_error_of_ours(babbler, client, name, data):
    strategy, perform = ARGUMENTS[name]
    argument = data.draw(strategy)
    babbler.answer = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"

    with time_limit(SHORT), ours(name):
        perform(client, babbler.url, argument)


@contextmanager
def ours(name):
    """Let errors of this package pass, and name the operation in all others."""
    try:
        yield
    except OpenSandboxError as exc:
        str(exc).encode()
    except Exception as exc:
        raise AssertionError(f"{name}: {exc!r}") from exc


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 01 Jan 1960 00:00:00 GMT"])
def test_a_server_with_an_impossible_clock_keeps_its_sandboxes(date):
    with serving(as_json({"id": "a"}, Date=date), as_json({}, Date=date)) as server, Client(server.url) as client:
        client.get_sandbox("a")

        end = client.renew("a", 60)

        assert abs(client.server_time().timestamp() - datetime.now().timestamp()) < 3600
    assert end.year < 2200


def test_a_sandbox_that_cannot_be_renewed_does_not_end_the_lease_of_others():
    renewed = []

    class Odd:
        def renew(self, sandbox_id, seconds):
            renewed.append(sandbox_id)
            if sandbox_id == "odd":
                raise ValueError("an unforeseen error")

    lease = Lease(Odd(), seconds=3600, at_once=1)
    for name in ("odd", "other"):
        lease.hold(name)

    lease.renew_all()
    lease.renew_all()

    lease.stop()
    assert renewed == ["odd", "other", "other", "odd"]


@pytest.mark.parametrize("name", ["Content-Length", "host", "Transfer-Encoding", "CONNECTION", "Upgrade", "TE"])
def test_an_endpoint_cannot_set_what_belongs_to_http(name):
    answer = as_json({"endpoint": "127.0.0.1:1", "headers": {name: "5"}})
    with serving(answer) as server, Client(server.url) as client:
        with pytest.raises(ProtocolError, match="must not control HTTP itself"):
            client.discover_execd("a")
        with pytest.raises(OpenSandboxError, match="headers must not control HTTP itself"):
            client.ping(Endpoint(server.url, {name: "5"}))


# requests would have read all of it, and unpacked it, before it looked where the redirect leads.
def test_the_body_of_a_redirect_is_not_read():
    held = threading.Event()
    reply = Reply(302, [b"x" * 100_000, held], {"Location": "/elsewhere"}, framing="chunked")
    with serving(reply) as server, Client(server.url, request_timeout=1) as client:
        with pytest.raises(OpenSandboxError, match="redirects are not followed"):
            client.get_sandbox("a")
        held.set()


class Broken(BytesIO):
    """A file whose disk fails."""

    name = "/somewhere/book.txt"

    def read(self, *args):
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_while_it_is_sent_is_named():
    upload = FileUpload("/a", Broken(b"abc"))
    named = r"Input/output error.*/somewhere/book.txt"
    with serving(Reply(200)) as server, Client(server.url) as client, pytest.raises(OpenSandboxError, match=named):
        client.upload_files(server.url, [upload])


@pytest.mark.parametrize("identifier", ["\ud800", "a\nb", "\x1b[2J", "", True, None, [], {}, 1.5, "x" * 501])
def test_an_id_that_cannot_be_written_is_refused(identifier):
    answer = as_json({"id": identifier})
    with serving(answer) as server, Client(server.url) as client, pytest.raises(OpenSandboxError, match="with an id"):
        client.get_sandbox("a")
