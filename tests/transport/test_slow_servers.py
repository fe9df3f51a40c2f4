"""Slow servers: each call ends, whether the other side stops or sends a byte now and then without end."""

import itertools
import socket
import ssl
import threading
import time
from contextlib import contextmanager, nullcontext, suppress

import pytest
import trustme

from pytest_opensandbox import Client, Endpoint, FileUpload, OpenSandboxError, Sandbox, SandboxResponse, TransportError
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, ReadySandbox
from pytest_opensandbox.sandbox.tracking import RunTags
from pytest_opensandbox.transport.retry import time_limit
from pytest_opensandbox.transport.timeouts import Timeouts
from pytest_opensandbox.transport.transport import Transport
from tests.scripted_servers import OneSandboxServer, Pause, Reply, as_events, serving

OPTS = SandboxOpts(image="a", timeout=60)
INIT = {"type": "init", "text": "c1"}
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FOR_EVER = 10**9
HURRIED = Timeouts(
    connect_seconds=0.1,
    request_seconds=0.1,
    create_seconds=0.3,
    grace_seconds=0.2,
    ending_seconds=0.2,
    transfer_connect_seconds=0.3,
    transfer_silence_seconds=0.3,
    transfer_seconds=0.4,
)
HURRIED_OUTPUT = Timeouts(
    grace_seconds=0.2, ending_seconds=0.2, fetch_seconds=0.2, last_output_seconds=0.2, tidy_seconds=0.2
)
HURRIED_DELETES = Timeouts(delete_seconds=0.6, silent_delete_seconds=0.05)
HURRIED_HEALTH = Timeouts(health_seconds=0.1, silent_health_seconds=0.1)
HANGS_SECONDS = 15.0
"""What takes longer has no end: each server here goes on for hours, and each limit of a test is below a second."""


@contextmanager
def every_time(pieces, pause=0.02):
    """Answer each connection with what ``pieces`` returns, piece by piece, and yield the address."""
    over = threading.Event()

    def talk(connection):
        with suppress(OSError), connection:
            connection.recv(65536)
            for piece in itertools.chain(*pieces()):
                connection.sendall(piece)
                if over.wait(pause):
                    return

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def ends():
    """Fail where the test has taken as long as only something without an end takes."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < HANGS_SECONDS


def drips(kind):
    """Return what a server of this habit sends; each call makes it anew."""
    return {
        "nothing": (itertools.repeat(b"", FOR_EVER),),
        "head": ([OK], itertools.repeat(b"X", FOR_EVER)),
        "headers": ([OK], itertools.repeat(b"X: y\r\n", FOR_EVER)),
        "interim answers": (itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", FOR_EVER),),
        "chunk's length": ([CHUNKED], itertools.repeat(b"0", FOR_EVER)),
        "chunks": ([CHUNKED], itertools.repeat(b"1\r\n \r\n", FOR_EVER)),
        "trailers": ([CHUNKED + b"0\r\n"], itertools.repeat(b"X: y\r\n", FOR_EVER)),
        "body": ([OK + b"Content-Length: 1000000\r\n\r\n"], itertools.repeat(b" ", FOR_EVER)),
        "error": ([b"HTTP/1.1 503 No\r\nContent-Length: 60000\r\n\r\n"], itertools.repeat(b" ", FOR_EVER)),
    }[kind]


CALLS = {
    "create": lambda client, url: client.create_sandbox(OPTS),
    "get": lambda client, url: client.get_sandbox("a"),
    "list": lambda client, url: client.list_sandboxes(),
    "delete": lambda client, url: client.delete_sandbox("a"),
    "renew": lambda client, url: client.renew("a", 60),
    "pause": lambda client, url: client.pause("a"),
    "wait paused": lambda client, url: client.wait_paused("a", timeout=0.4),
    "wait ready": lambda client, url: client.wait_ready("a", timeout=0.4),
    "endpoint": lambda client, url: client.discover_execd("a"),
    "metadata": lambda client, url: client.patch_metadata("a", {"b": "c"}),
    "diagnostics": lambda client, url: client.diagnostics("a"),
    "snapshot": lambda client, url: client.create_snapshot("a"),
    "wait snapshot": lambda client, url: client.wait_snapshot_ready("a", timeout=0.4),
    "snapshots": lambda client, url: client.list_snapshots(),
    "version": lambda client, url: client.server_version(),
    "ping": lambda client, url: client.ping(url, timeout=0.4),
    "info": lambda client, url: client.files_info(url, ["/a"]),
    "search": lambda client, url: client.search_files(url, "/a"),
    "remove": lambda client, url: client.remove_files(url, ["/a"]),
    "upload": lambda client, url: client.upload_files(url, [FileUpload("/a", b"abc")]),
    "download": lambda client, url: client.download_file(url, "/a", known_file=True).read(),
    "command": lambda client, url: client.run_command(Endpoint(url), "true", timeout=0.1),
    "background": lambda client, url: client.run_command(Endpoint(url), "true", background=True),
}


@pytest.mark.parametrize(
    "habit", ["nothing", "head", "headers", "interim answers", "chunk's length", "chunks", "trailers", "body", "error"]
)
def test_every_call_ends_whatever_the_other_side_does(habit):
    with every_time(lambda: drips(habit)) as url, Client(url, timeouts=HURRIED) as client:
        outcomes = {}

        def perform(call):
            began = time.monotonic()
            try:
                CALLS[call](client, url)
                outcomes[call] = "no error"
            except OpenSandboxError:
                outcomes[call] = "ended" if time.monotonic() - began < HANGS_SECONDS else "late"

        threads = {call: threading.Thread(target=perform, args=(call,), daemon=True) for call in CALLS}
        for thread in threads.values():
            thread.start()
        for thread in threads.values():
            thread.join(2 * HANGS_SECONDS)

    # A diagnosis that cannot be had is no error where the server says that it has none.
    assert {call: outcomes.get(call, "hangs") for call in CALLS} == dict.fromkeys(CALLS, "ended")


@pytest.fixture
def sandbox_at():
    """Make a handle on the one sandbox of a server."""
    made = []

    def make(server):
        client = Client(server.url, timeouts=HURRIED_OUTPUT)
        lifecycle = Lifecycle(client, tags=RunTags("run"), ready_timeout=1)
        made.append(client)
        endpoint = Endpoint(f"{server.url}/agent", sandbox_id="s1")
        return Sandbox(lifecycle, ReadySandbox(SandboxResponse("s1", "Running"), endpoint, "image"))

    yield make
    for client in made:
        client.close()


def held():
    return Reply(200, [Pause(2 * HANGS_SECONDS)], promised=1)


# It was 141 s for timeout=3: ten seconds of grace, eight for the interrupt, twice sixty for the output's files.
@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(as_events(INIT, Pause(2 * HANGS_SECONDS)), id="after the command has begun"),
        pytest.param(Reply(200, [Pause(2 * HANGS_SECONDS)], framing="chunked"), id="before it has begun"),
    ],
)
@pytest.mark.parametrize("stdin", [None, b"input"])
def test_a_command_ends_soon_after_its_time_when_its_agent_stops(sandbox_at, first, stdin):
    stopped = [held() for _ in range(20)]
    with serving(server=OneSandboxServer(command=[first, *stopped], info=stopped[:], ping=stopped[:])) as server:
        sandbox = sandbox_at(server)

        with pytest.raises(OpenSandboxError):
            sandbox.run("sleep 100", timeout=0.2, input=stdin)


@pytest.mark.usefixtures("ends")
def test_output_that_does_not_come_is_not_waited_for(sandbox_at):
    spilled = as_events(INIT, {"type": "error", "error": {"ename": "E", "evalue": "98", "traceback": []}})
    with serving(server=OneSandboxServer(command=[spilled], download=[held() for _ in range(9)])) as server:
        sandbox = sandbox_at(server)

        with pytest.raises(OpenSandboxError, match="could not be fetched"):
            sandbox.run("yes", timeout=0.2)


@pytest.mark.usefixtures("ends")
def test_a_server_that_has_stopped_is_waited_for_once_by_all_deletes():
    with every_time(lambda: drips("nothing")) as url, Client(url, timeouts=HURRIED_DELETES) as client:
        lifecycle = Lifecycle(client, tags=RunTags("run"))
        waited = []
        for number in range(5):
            began = time.monotonic()
            with pytest.raises(TransportError):
                lifecycle.delete(f"s{number}")
            waited.append(time.monotonic() - began)

    assert min(waited) == min(waited[1:]) < waited[0]
    assert sum(waited[1:]) < waited[0] + HANGS_SECONDS / 2


@pytest.mark.usefixtures("ends")
def test_a_create_is_given_up_when_its_server_does_not_report_its_health():
    with every_time(lambda: drips("nothing")) as url, Client(url, watched=True, timeouts=HURRIED_HEALTH) as client:
        for unsent in (False, True):
            with pytest.raises(TransportError, match="no longer responds") as caught:
                client.create_sandbox(OPTS)
            assert (caught.value.timed_out, caught.value.unsent) == (True, unsent)


def test_a_create_may_take_its_time_while_its_server_tells_its_health():
    created = Reply(202, [Pause(1.0), b'{"id": "s1"}'], {"Content-Type": "application/json"})
    with (
        serving(server=OneSandboxServer(create=[created])) as server,
        Client(server.url, watched=True, timeouts=HURRIED_HEALTH) as client,
    ):
        assert client.create_sandbox(OPTS).id == "s1"

    assert server.calls.count("/health") >= 2


def test_the_addresses_of_a_host_share_the_time_for_a_connection(monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    full = [socket.socket() for _ in range(4)]
    for sock in full:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())

    def many(host, *args, flags=0, **kwargs):
        if flags:
            raise socket.gaierror
        return [address] * 20

    monkeypatch.setattr(socket, "getaddrinfo", many)
    began = time.monotonic()

    with pytest.raises(TransportError) as caught:
        Transport("http://many.example.org", trust_env=False, timeouts=Timeouts(connect_seconds=0.5)).request(
            "GET", "/x"
        )

    assert time.monotonic() - began < 20 * 0.5
    assert caught.value.unsent
    for sock in (*full, listener):
        sock.close()


@pytest.mark.usefixtures("ends")
def test_a_name_server_that_stays_silent_is_not_waited_for(monkeypatch):
    answered = threading.Event()

    def silent(host, *args, flags=0, **kwargs):
        if flags:
            raise socket.gaierror
        answered.wait(2 * HANGS_SECONDS)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)

    with pytest.raises(TransportError) as caught:
        Transport("http://slow.example.org", trust_env=False, timeouts=Timeouts(connect_seconds=0.2)).request(
            "GET", "/x"
        )

    answered.set()
    assert (caught.value.unsent, caught.value.timed_out) == (True, True)


@pytest.mark.usefixtures("ends")
def test_a_handshake_that_drips_is_given_up():
    record = b"\x16\x03\x03\x40\x00"
    drip = [record], itertools.repeat(b"\x00", FOR_EVER)

    with every_time(lambda: drip) as url, time_limit(1), pytest.raises(TransportError):
        Transport(url.replace("http:", "https:"), timeouts=Timeouts(connect_seconds=0.3)).request("GET", "/x")


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upload_that_the_server_reads_too_slowly_is_given_up(scheme, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    impatient = Timeouts(transfer_seconds=0.5, lowest_bytes_per_second=10**9)
    with reading_slowly(authority if scheme == "https" else None) as port:
        client = Client("http://127.0.0.1:1", ca_bundle=str(tmp_path / "ca.pem"), timeouts=impatient)
        began = time.monotonic()

        with pytest.raises(TransportError):
            client.upload_files(f"{scheme}://127.0.0.1:{port}", [FileUpload("/a", bytes(64 * 1024 * 1024))])

    assert time.monotonic() - began < HANGS_SECONDS


@contextmanager
def reading_slowly(authority):
    """Take a request in, a few bytes at a time; yield the port."""
    over = threading.Event()

    def wrapped(connection):
        if authority is None:
            return nullcontext(connection)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        return context.wrap_socket(connection, server_side=True)

    def read():
        with suppress(OSError), listener.accept()[0] as connection, wrapped(connection) as stream:
            while stream.recv(20_000) and not over.wait(0.02):
                continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join()
