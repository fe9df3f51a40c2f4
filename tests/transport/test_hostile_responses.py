"""Responses of a server or an agent that lies: an error of ours, in time and in bounded memory."""

import gzip
import itertools
import resource
import socket
import threading
from contextlib import suppress

import pytest
import requests

from pytest_opensandbox import Client
from pytest_opensandbox.errors import (
    OpenSandboxError,
    ProtocolError,
    TransportError,
)
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.timeouts import Timeouts
from pytest_opensandbox.transport.transport import Transport
from tests.scripted_servers import Reply, as_json, dripping, saying, serving

INIT = {"type": "init", "text": "c0ffee"}
OK = b"HTTP/1.1 200 OK\r\n"
MEBIBYTE = 1024 * 1024


# The HTTP library's own limit starts anew with every byte: each of these would hold a test run for hours.
@pytest.mark.parametrize(
    ("pieces", "pause"),
    [
        pytest.param(itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), 0.0, id="interim answers without end"),
        pytest.param(dripping(OK, b"X"), 0.05, id="a head that drips"),
        pytest.param(
            dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"), 0.05, id="a chunk's length that drips"
        ),
        pytest.param(
            dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 10**9),
            0.0,
            id="trailers without end",
        ),
    ],
)
def test_what_never_ends_is_given_up_in_its_time(pieces, pause):
    with saying(pieces, pause=pause) as url, pytest.raises(TransportError) as caught:
        Transport(url, timeouts=Timeouts(request_seconds=0.3)).request("GET", "/x").read()

    assert caught.value.timed_out


def test_a_body_that_drips_is_given_up_in_its_time():
    drip = dripping(OK + b"Content-Length: 1000\r\n\r\n", b"x")

    with saying(drip, pause=0.02) as url, pytest.raises(ProtocolError, match=r"not complete after 0\.3 s"):
        Transport(url, timeouts=Timeouts(request_seconds=0.2)).request("GET", "/x").read(max_seconds=0.3)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(OK + b"X: y\r\n" * 101, id="more than a hundred headers"),
        pytest.param(OK + b"X: " + b"y" * 70_000, id="a header that is too long"),
        pytest.param(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", id="two lengths"),
        pytest.param(b"HTTP/1.1 2\xff0\r\n\r\n", id="no status"),
        pytest.param(b"\x16\x03\x01\x02\x00\r\n", id="another protocol"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", id="a chunk without a length"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000, id="a chunk beyond all numbers"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_transport_error(head):
    with saying([head]) as url, pytest.raises(TransportError):
        Transport(url, timeouts=Timeouts(request_seconds=2)).request("GET", "/x").read()


@pytest.mark.parametrize("lengths", [b"Content-Length: 1, 2\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n"])
def test_an_answer_whose_headers_are_refused_holds_no_connection(lengths):
    ends = []

    def answer():
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(OK + lengths + b"Connection: close\r\n\r\nab")
            connection.settimeout(5)
            with suppress(TimeoutError):
                ends.append(connection.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as listener, Client("http://127.0.0.1:1", "key") as client:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(OpenSandboxError, match="multiple") as caught:
            client.ping(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()

    assert caught.value is not None  # an error that is kept keeps no socket
    assert ends == [b""]


def test_bytes_behind_an_answer_are_not_taken_for_the_next_one():
    forged = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"forged"'
    with serving(Reply(200, b"1" + forged, promised=1), as_json("honest")) as server:
        transport = Transport(server.url)

        first, second = (transport.request("GET", "/x").json() for _ in range(2))

    assert (first, second) == (1, "honest")


def test_a_compressed_body_is_never_unpacked():
    bomb = gzip.compress(b"[" + b" " * 50 * MEBIBYTE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with serving(Reply(200, bomb, {"Content-Encoding": "gzip"})) as server, pytest.raises(ProtocolError, match="JSON"):
        Transport(server.url).request("GET", "/x").json()

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


@pytest.mark.parametrize("length", ["-5", "1e3", "0x10", "5, 5", "٣"])
def test_a_length_that_is_none_is_no_length(length):
    answer = requests.Response()
    answer.headers["Content-Length"] = length

    response = Response(answer, as_error=pytest.fail, silence_seconds=1, max_seconds=1)

    assert response.length is None


# The HTTP library takes the end of the connection for that of the headers, and then finds no body: an empty answer.
@pytest.mark.parametrize("head", [OK, OK + b"Server: x\r\n", OK + b"Content-Le", b"HTTP/1.1 200"])
def test_a_response_cut_in_its_headers_is_not_taken_for_an_empty_one(head):
    with saying([head]) as url, pytest.raises(TransportError):
        Transport(url, timeouts=Timeouts(request_seconds=2)).request("POST", "/x").read()
