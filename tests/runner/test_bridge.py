"""The bridge carries TCP connections over WebSockets, with any client and any frames."""

import hashlib
import os
import re
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus

from tests.runner.conftest import NONCE

MEGABYTES_100 = 100 * 1024 * 1024
PIECE = 64 * 1024


@contextmanager
def tcp_server(serve, family=socket.AF_INET, address="127.0.0.1"):
    """Serve each connection to a port of loopback in a thread; yield the port."""

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen(128)
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def echo(connection):
    with connection, suppress(OSError):
        while data := connection.recv(PIECE):
            connection.sendall(data)


def test_bytes_come_back_as_they_were(bridge):
    with tcp_server(echo) as port, bridge.connect(f"tcp/{port}") as client:
        client.send(bytes(range(256)))
        assert client.recv() == bytes(range(256))

        client.send("eof")
        assert client.recv() == "eof"


def test_a_hundred_megabytes_go_both_ways_at_once(bridge):
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send():
        for _ in range(MEGABYTES_100 // PIECE):
            piece = os.urandom(PIECE)
            sent.update(piece)
            client.send(piece)
        client.send("eof")

    with tcp_server(echo) as port, bridge.connect(f"tcp/{port}") as client:
        thread = threading.Thread(target=send)
        thread.start()
        while (piece := client.recv()) != "eof":
            received.update(piece)
        thread.join()

    assert received.digest() == sent.digest()


def test_messages_in_pieces_and_of_any_length_are_one_stream(bridge):
    with tcp_server(echo) as port, bridge.connect(f"tcp/{port}") as client:
        client.send([b"ab", b"", b"c" * 200_000, b"d"])
        received = b""
        while len(received) < 200_003:
            received += client.recv()

    assert received == b"ab" + b"c" * 200_000 + b"d"


def test_fifty_connections_at_once_have_a_process_each(bridge):
    with tcp_server(echo) as port, ExitStack() as stack:
        clients = [stack.enter_context(bridge.connect(f"tcp/{port}")) for _ in range(50)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)

        assert [client.recv() for client in clients] == [b"%d" % number for number in range(50)]


def test_the_end_of_one_direction_leaves_the_other_open(bridge):
    def answer_at_the_end(connection):
        with connection:
            received = b""
            while data := connection.recv(PIECE):
                received += data
            connection.sendall(b"got " + received)

    with tcp_server(answer_at_the_end) as port, bridge.connect(f"tcp/{port}") as client:
        client.send(b"all")
        client.send("eof")

        assert (client.recv(), client.recv()) == (b"got all", "eof")


def test_a_server_that_ends_first_can_still_be_written_to(bridge):
    received = []

    def end_and_read(connection):
        with connection:
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(PIECE):
                received.append(data)

    with tcp_server(end_and_read) as port, bridge.connect(f"tcp/{port}") as client:
        assert client.recv() == "eof"
        client.send(b"late")
        client.send("eof")
        with pytest.raises(ConnectionClosed):
            client.recv()

    assert received == [b"late"]


def test_a_reset_by_the_server_is_passed_on(bridge):
    def reset(connection):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with tcp_server(reset) as port, bridge.connect(f"tcp/{port}") as client:
        client.send(b"x")

        assert client.recv() == "reset"


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda client: client.send("reset"), id="a reset"),
        pytest.param(lambda client: client.close(), id="a close without an end"),
        pytest.param(lambda client: client.socket.shutdown(socket.SHUT_RDWR), id="a lost connection"),
    ],
)
def test_a_client_that_goes_resets_the_connection_inside(bridge, leave):
    ends = []
    over = threading.Event()

    def note_the_end(connection):
        with connection:
            connection.sendall(b"hi")
            try:
                ends.append(connection.recv(1))
            except ConnectionResetError:
                ends.append("reset")
            over.set()

    with tcp_server(note_the_end) as port, bridge.connect(f"tcp/{port}") as client:
        client.recv()
        leave(client)
        over.wait(10)

    assert ends == ["reset"]


def test_a_client_that_does_not_read_stops_the_server_and_no_other(bridge):
    def pour(connection):
        with connection, suppress(OSError):
            for _ in range(4000):
                connection.sendall(bytes(PIECE))

    with tcp_server(pour) as port, tcp_server(echo) as other, bridge.connect(f"tcp/{port}", max_queue=1):
        time.sleep(1)
        with bridge.connect(f"tcp/{other}") as client:
            client.send(b"still here")
            assert client.recv() == b"still here"
        children = Path(f"/proc/{bridge.process.pid}/task/{bridge.process.pid}/children").read_text().split()
        found = [re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in children]

    assert max(int(size[1]) for size in found if size) < 4_000


def test_pings_are_answered(bridge):
    with tcp_server(echo) as port, bridge.connect(f"tcp/{port}") as client:
        assert client.ping(b"there?").wait(10)


def test_a_server_on_ipv6_alone_is_reached(bridge):
    with tcp_server(echo, socket.AF_INET6, "::1") as port, bridge.connect(f"tcp/{port}") as client:
        client.send(b"six")

        assert client.recv() == b"six"


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("tcp/99999", id="no port"),
        pytest.param("tcp/", id="no number"),
        pytest.param("accept", id="no inner port"),
        pytest.param("other", id="an unknown place"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_place_that_is_not_there_is_refused(bridge, place):
    with pytest.raises(InvalidStatus) as caught:
        bridge.connect(place)

    assert caught.value.response.status_code == 404


@pytest.mark.parametrize("sent", [0, 10_000_000], ids=["nothing sent", "bytes on their way"])
def test_a_port_without_a_server_is_refused_in_words(bridge, sent):
    with bridge.connect("tcp/1") as client:
        with suppress(ConnectionClosed):
            client.send(bytes(sent))

        assert client.recv(timeout=10) == "refused"
        with pytest.raises(ConnectionClosedOK):
            client.recv(timeout=10)


@pytest.mark.parametrize(
    "request_text",
    [
        pytest.param(
            f"GET /{NONCE[:-1]}0/tcp/1 HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
            id="a wrong secret",
        ),
        pytest.param("GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n", id="no secret"),
        pytest.param(f"GET /{NONCE}/accept HTTP/1.1\r\n\r\n", id="no upgrade"),
        pytest.param(f"POST /{NONCE}/accept HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", id="another method"),
        pytest.param("x" * 100_000, id="no end"),
        pytest.param("\0\r\n\r\n", id="nonsense"),
    ],
)
def test_other_requests_get_nothing_and_harm_nothing(bridge, request_text):
    with socket.create_connection(("127.0.0.1", bridge.port)) as client:
        client.settimeout(10)
        try:
            client.sendall(request_text.encode())
            answer = client.recv(1000)
        except ConnectionError:
            answer = b""

    assert b"101" not in answer
    assert bridge.process.poll() is None


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\x82\x01x", id="without a mask"),
        pytest.param(b"\xf2\x80\0\0\0\0", id="reserved bits"),
        pytest.param(b"\x83\x80\0\0\0\0", id="an unknown kind"),
        pytest.param(b"\x89\xfe\x01\x00\0\0\0\0", id="a long ping"),
        pytest.param(b"\x09\x80\0\0\0\0", id="a ping in pieces"),
        pytest.param(b"\x80\x80\0\0\0\0", id="a continuation of nothing"),
        pytest.param(b"\x81\x83\0\0\0\0abc", id="an unknown text"),
    ],
)
def test_a_frame_that_breaks_the_rules_ends_its_connection_only(bridge, frame):
    with tcp_server(echo) as port, bridge.connect(f"tcp/{port}") as client, bridge.connect(f"tcp/{port}") as other:
        client.socket.sendall(frame)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        other.send(b"fine")

        assert (caught.value.rcvd.code, other.recv()) == (1002, b"fine")


def test_an_inner_port_hands_its_connections_to_those_who_wait(bridge_with):
    bridge = bridge_with(("x", 0))
    with bridge.connect("accept") as first, bridge.connect("accept") as second:
        assert first.ping().wait(10)
        clients = [socket.create_connection(("127.0.0.1", bridge.inner_port)) for _ in range(2)]
        assert (first.recv(10), second.recv(10)) == ("open", "open")
        first.send(b"a")
        second.send(b"b")

        assert sorted(client.recv(10) for client in clients) == [b"a", b"b"]
        for client in clients:
            client.close()


def test_a_bridge_that_ends_takes_its_connections_along(bridge):
    with tcp_server(echo) as port, bridge.connect(f"tcp/{port}") as client:
        bridge.process.terminate()

        assert bridge.process.wait(10) == 0
        with pytest.raises(ConnectionClosed):
            client.recv(10)
