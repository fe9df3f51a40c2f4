"""Bodies of responses: how they are read, and which are refused."""

import threading

import pytest

from pytest_opensandbox.errors import ProtocolError, TransportError
from pytest_opensandbox.transport.transport import Transport
from tests.scripted_servers import Reply, serving


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_breaks_off_is_a_transport_error(framing):
    reply = Reply(200, b"half", framing=framing, promised=8, drop="after")
    with serving(reply) as server, pytest.raises(TransportError):
        Transport(server.url).request("GET", "/x").read()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_bytes_are_handed_on_as_they_arrive(framing):
    held = threading.Event()
    with serving(Reply(200, [b"first", held, b"second"], framing=framing)) as server:
        chunks = Transport(server.url).request("GET", "/x").chunks()

        first = next(chunks)
        held.set()
        rest = b"".join(chunks)

    assert (first, rest) == (b"first", b"second")


def test_a_response_that_is_too_long_is_refused():
    with serving(Reply(200, b"x" * 200_000)) as server, pytest.raises(ProtocolError, match="100,000"):
        Transport(server.url).request("GET", "/x").read(max_bytes=100_000)


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"{", b"[" * 200_000])
def test_a_success_that_is_no_json_is_a_protocol_error(body):
    with serving(Reply(200, body)) as server, pytest.raises(ProtocolError, match="must be JSON"):
        Transport(server.url).request("GET", "/x").json()


def test_an_empty_success_is_none():
    with serving(Reply(200)) as server:
        assert Transport(server.url).request("POST", "/x").json() is None
