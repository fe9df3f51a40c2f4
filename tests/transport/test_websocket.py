"""WebSocket connections: both directions at once, proxies, TLS, and what a server refuses."""

import base64
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import trustme
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.sync.server import serve
from websockets.uri import parse_uri

from pytest_opensandbox import ApiError, TransportError
from pytest_opensandbox.transport.timeouts import Timeouts
from pytest_opensandbox.transport.websocket import WebSocket, open_websocket

PIECE = bytes(60 * 1024)


@contextmanager
def server(handle, **options):
    """Serve each connection in a thread; yield the port."""
    with serve(handle, "127.0.0.1", 0, **options) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.socket.getsockname()[1]
        listening.shutdown()


def connect(url, *, headers=(), proxies=(), verify=True, seconds=10.0):
    timeouts = Timeouts(connect_seconds=seconds / 2, request_seconds=seconds / 2)
    route = {"proxies": dict(proxies), "verify": verify}
    redact = lambda text: text.replace("secret", "***")  # noqa: E731
    return open_websocket(url, dict(headers), route=route, timeouts=timeouts, redact=redact)


def echo(connection):
    for message in connection:
        connection.send(message)


def test_messages_come_back_as_they_were_sent():
    with server(echo) as port:
        web_socket = connect(f"http://127.0.0.1:{port}/")
        for message in ("text", b"\0bytes", "", b"", b"x" * 300_000):
            web_socket.send(message)
            assert web_socket.receive() == message
        web_socket.close()


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_both_directions_go_on_where_all_buffers_are_full(is_tls):
    """The peer reads nothing while it cannot write, as a relay does."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, buffer, 4096)
    contexts = tls_contexts() if is_tls else (None, None)

    def relay():
        protocol = ServerProtocol(state=State.OPEN)
        with theirs if contexts[0] is None else contexts[0].wrap_socket(theirs, server_side=True) as sock:
            while data := sock.recv(65536):
                protocol.receive_data(data)
                for frame in protocol.events_received():
                    protocol.send_binary(bytes(frame.data))
                sock.sendall(b"".join(protocol.data_to_send()))

    relaying = threading.Thread(target=relay, daemon=True)
    relaying.start()
    if is_tls:
        ours = contexts[1].wrap_socket(ours, server_hostname="example.org")
    web_socket = WebSocket(ours, ClientProtocol(parse_uri("ws://example.org"), state=State.OPEN), lambda exc: exc)
    sender = threading.Thread(target=lambda: [web_socket.send(PIECE) for _ in range(50)], daemon=True)
    sender.start()

    received = [web_socket.receive() for _ in range(50)]

    sender.join(10)
    web_socket.close()
    relaying.join(10)
    assert received == [PIECE] * 50


def tls_contexts():
    authority = trustme.CA()
    contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("example.org", "127.0.0.1").configure_cert(contexts[0])
    authority.configure_trust(contexts[1])
    return contexts


def test_pings_of_the_server_are_answered():
    answered = []
    asked = threading.Event()

    def ask(connection):
        answered.append(connection.ping().wait(10))
        asked.set()
        connection.send("done")

    with server(ask) as port:
        web_socket = connect(f"http://127.0.0.1:{port}/")
        assert web_socket.receive() == "done"
        web_socket.close()

    assert answered == [True]


def test_a_message_in_frames_arrives_in_parts():
    with server(lambda connection: connection.send(iter([b"a", b"b", b"c"]))) as port:
        web_socket = connect(f"http://127.0.0.1:{port}/")
        parts = []
        while (part := web_socket.receive()) is not None:
            parts.append(part)
        web_socket.close()

    assert b"".join(parts) == b"abc"


def test_the_end_of_the_connection_is_none_and_then_an_error():
    with server(lambda connection: connection.send("last")) as port:
        web_socket = connect(f"http://127.0.0.1:{port}/")

        assert [web_socket.receive() for _ in range(3)] == ["last", None, None]
        with pytest.raises(TransportError):
            web_socket.send("x")
        web_socket.close()
        web_socket.close()


def test_a_close_wakes_both_threads():
    ours, theirs = socket.socketpair()
    outcome = SimpleNamespace(received="nothing yet", error=None)
    web_socket = WebSocket(
        ours,
        ClientProtocol(parse_uri("ws://example.org"), state=State.OPEN),
        lambda exc: TransportError(str(exc), method="GET", url=""),
    )

    def receive():
        outcome.received = web_socket.receive()

    def send():
        try:
            while True:
                web_socket.send(PIECE)
        except TransportError as exc:
            outcome.error = exc

    threads = [threading.Thread(target=target, daemon=True) for target in (receive, send)]
    for thread in threads:
        thread.start()
    threads[1].join(0.2)  # until its buffers are full
    web_socket.close()
    for thread in threads:
        thread.join(10)
    theirs.close()

    assert not any(thread.is_alive() for thread in threads)
    assert outcome.received is None
    assert isinstance(outcome.error, TransportError)


def test_a_message_of_more_than_a_mebibyte_ends_the_connection():
    with server(lambda connection: connection.send(bytes(2 << 20))) as port:
        web_socket = connect(f"http://127.0.0.1:{port}/")

        assert web_socket.receive() is None
        web_socket.close()


@pytest.mark.parametrize("status", [302, 401, 404, 502])
def test_a_refusal_is_an_error_with_the_status_and_the_text(status):
    def refuse(connection, request):
        response = connection.respond(status, "no secret here")
        response.headers["Location"] = "http://127.0.0.1:1/"
        return response

    with server(echo, process_request=refuse) as port, pytest.raises(ApiError, match=r"no \*\*\* here") as caught:
        connect(f"http://127.0.0.1:{port}/secret")

    assert (caught.value.status, "secret" in caught.value.url) == (status, False)


def test_headers_are_sent():
    seen = []
    with server(lambda connection: seen.append(connection.request.headers["X-Token"])) as port:
        web_socket = connect(f"http://127.0.0.1:{port}/", headers={"X-Token": "t"})
        web_socket.receive()
        web_socket.close()

    assert seen == ["t"]


@contextmanager
def silent_peer(answer=b""):
    """A server that sends an answer to whatever comes, and nothing more; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with suppress(OSError):
                connections.append(listener.accept()[0])
                connections[0].recv(1000)
                connections[0].sendall(answer)
                if answer:
                    connections[0].close()

        connections = []
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        for connection in connections:
            connection.close()


def test_a_server_that_says_nothing_is_given_up_in_time():
    with silent_peer() as port, pytest.raises(TransportError) as caught:
        connect(f"http://127.0.0.1:{port}/", seconds=0.4)

    assert caught.value.timed_out


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 101 OK\r\n\r\n", b"HTTP/1.1 101 O", b"\0" * 20_000])
def test_a_server_that_speaks_otherwise_is_an_error(answer):
    with silent_peer(answer) as port, pytest.raises(TransportError):
        connect(f"http://127.0.0.1:{port}/")


def test_tls_is_verified(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with server(echo, ssl=context) as port:
        for verify in (str(tmp_path / "ca.pem"), False):
            web_socket = connect(f"https://127.0.0.1:{port}/", verify=verify)
            web_socket.send("over TLS")
            assert web_socket.receive() == "over TLS"
            web_socket.close()
        with pytest.raises(TransportError, match="certificate"):
            connect(f"https://127.0.0.1:{port}/")


@contextmanager
def tunnel_proxy(seen):
    """A proxy that serves one CONNECT; yield its port."""

    def carry(source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept():
        client, _ = listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1000)
        seen.append(head.decode())
        host, port = head.split()[1].decode().split(":")
        with client, socket.create_connection((host, int(port))) as upstream:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=carry, args=(upstream, client), daemon=True)
            back.start()
            carry(client, upstream)
            upstream.shutdown(socket.SHUT_RDWR)
            back.join(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_proxy_is_asked_for_a_tunnel():
    seen = []
    with server(echo) as port, tunnel_proxy(seen) as proxy:
        web_socket = connect(f"http://127.0.0.1:{port}/", proxies={"http": f"http://me:p%40ss@127.0.0.1:{proxy}"})
        web_socket.send(b"through")
        assert web_socket.receive() == b"through"
        web_socket.close()

    assert f"CONNECT 127.0.0.1:{port}" in seen[0]
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in seen[0]


@pytest.mark.parametrize("proxy", ["https://proxy.example.org", "socks5://proxy.example.org:1080"])
def test_another_kind_of_proxy_is_refused_with_advice(proxy):
    with pytest.raises(TransportError, match="name an http:// proxy, or set NO_PROXY"):
        connect("http://sandbox.example.org/", proxies={"http": proxy})
