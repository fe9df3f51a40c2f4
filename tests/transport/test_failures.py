"""Error responses and connection failures: which errors they become, and what those say."""

import socket
import threading

import pytest

from pytest_opensandbox.errors import ApiError, AuthError, ConflictError, NotFoundError, TransportError
from pytest_opensandbox.transport.failures import api_error, read_error, read_retry_after
from pytest_opensandbox.transport.timeouts import Timeouts
from pytest_opensandbox.transport.transport import Transport
from tests.scripted_servers import Reply, serving, unused_port


def refuse(status: int, body: bytes, **headers: str) -> ApiError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api_error(status, named, body, method="GET", url="http://h/v1/x")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        pytest.param(b'{"code":"A::B","message":"why"}', "A::B", "why", id="code and message"),
        pytest.param(
            b'{"detail":[{"loc":["body","timeout"],"msg":"too small"},{"loc":["query","page"],"msg":"bad"}]}',
            "",
            "body.timeout: too small; query.page: bad",
            id="validation",
        ),
        pytest.param(b'{"detail":"Not Found"}', "", "Not Found", id="no such route"),
        pytest.param(b'{"detail":{"code":"A::B","message":"why"}}', "A::B", "why", id="older servers"),
        pytest.param(b"Internal Server Error", "", "Internal Server Error", id="plain text"),
        pytest.param(b"<html><h1>502</h1></html>", "", "<html><h1>502</h1></html>", id="HTML"),
        pytest.param(b'{"error":"no token"}', "", "no token", id="the agent's own 401"),
        pytest.param(b"", "", "", id="empty"),
        pytest.param(b"\xff\xfe oops", "", "\N{REPLACEMENT CHARACTER}" * 2 + " oops", id="not UTF-8"),
        pytest.param(b'{"code":', "", '{"code":', id="cut JSON"),
        pytest.param(b'["a"]', "", '["a"]', id="a list"),
        pytest.param(b"null", "", "null", id="null"),
        pytest.param(b'{"code":7,"message":{"a":1}}', "7", '{"a": 1}', id="other types"),
        pytest.param(b'{"detail":["odd",null,{"msg":"m"}]}', "", "odd; ; m", id="odd validation"),
        pytest.param(b"[" * 100_000, "", "[" * 100_000, id="deeper than any stack"),
    ],
)
def test_every_shape_of_an_error_body_is_read(body, code, message):
    assert read_error(body) == (code, message)


def test_an_error_carries_the_facts_and_shows_them():
    error = refuse(404, b'{"code":"DOCKER::SANDBOX_NOT_FOUND","message":"Sandbox x not found."}', X_Request_ID="r1")

    assert (error.status, error.code, error.message, error.request_id) == (
        404,
        "DOCKER::SANDBOX_NOT_FOUND",
        "Sandbox x not found.",
        "r1",
    )
    assert str(error) == "Sandbox x not found. (404 DOCKER::SANDBOX_NOT_FOUND, GET http://h/v1/x, request r1)"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthError), (403, AuthError), (404, NotFoundError), (409, ConflictError), (500, ApiError)],
)
def test_the_status_decides_the_class(status, kind):
    assert type(refuse(status, b"")) is kind


# Another key would not help, and "check the key" would mislead the user.
def test_a_quota_is_no_question_of_the_key():
    error = refuse(403, b'{"code":"KUBERNETES::QUOTA_EXCEEDED","message":"exceeded quota: pods"}')

    assert type(error) is ApiError
    assert error.status == 403


def test_an_empty_body_is_explained_by_its_status():
    assert refuse(503, b"").message == "Service Unavailable"


def test_a_redirect_says_where_it_leads_and_what_to_do():
    error = refuse(307, b"", Location="https://h/v1/x")

    assert "redirects are not followed" in error.message
    assert "https://h/v1/x" in error.message


def test_a_message_is_cut_and_cannot_steer_a_terminal():
    error = refuse(500, b"\x1b[31mred\x9b" + b"x" * 10_000)

    assert len(error.message) == 2_000
    assert "\x1b" not in error.message
    assert "\x9b" not in error.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param("-3", 0.0, id="negative"),
        pytest.param("Mon, 23 Nov 2026 12:00:30 GMT", 30.0, id="a date, by the server's own clock"),
        pytest.param("Mon, 23 Nov 2026 11:00:00 GMT", 0.0, id="a date that is past"),
        pytest.param("soon", None, id="no number and no date"),
        pytest.param("inf", None, id="infinity"),
        pytest.param("nan", None, id="not a number"),
        pytest.param(None, None, id="missing"),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert read_retry_after(value, "Mon, 23 Nov 2026 12:00:00 GMT") == seconds


def test_a_redirect_is_an_error_and_is_not_followed():
    with (
        serving(Reply(302, headers={"Location": "http://127.0.0.1:1/elsewhere"})) as server,
        pytest.raises(ApiError, match=r"redirects are not followed.*elsewhere.*302"),
    ):
        Transport(server.url, "key").request("GET", "/x")

    assert len(server.seen) == 1


def test_a_refused_connection_is_a_transport_error_that_says_so():
    url = f"http://127.0.0.1:{unused_port()}"

    with pytest.raises(TransportError, match="connection refused") as caught:
        Transport(url).request("GET", "/x")

    assert (caught.value.method, caught.value.url, caught.value.timed_out) == ("GET", f"{url}/v1/x", False)


def test_silence_is_a_transport_error_that_says_how_long():
    held = threading.Event()
    with serving(Reply(200, [held], framing="close")) as server:
        with pytest.raises(TransportError, match=r"no byte within 0\.2 s") as caught:
            Transport(server.url, timeouts=Timeouts(request_seconds=0.2)).request("GET", "/x").read()
        held.set()

    assert caught.value.timed_out


def test_an_error_that_never_ends_is_read_no_further_than_needed():
    held = threading.Event()
    with serving(Reply(500, [b"x" * 100_000, held], framing="chunked")) as server:
        with pytest.raises(ApiError, match="xxx"):
            Transport(server.url).request("GET", "/x")
        held.set()


def test_an_error_whose_body_breaks_off_is_still_that_error():
    with serving(Reply(404, b'{"code"', promised=500, drop="after")) as server, pytest.raises(ApiError, match="404"):
        Transport(server.url).request("GET", "/x")


# execd promises 2**63 - 1 bytes of a directory; a create would wait five minutes for the rest of its error.
def test_an_error_whose_text_does_not_come_is_not_waited_for():
    held = threading.Event()
    with serving(Reply(500, [b"beginning", held], promised=2**63 - 1)) as server:
        with pytest.raises(ApiError, match=r"beginning \(500"):
            Transport(server.url, timeouts=Timeouts(request_seconds=300, error_body_seconds=0.2)).request("GET", "/x")
        held.set()


@pytest.mark.parametrize(
    ("url", "unsent"),
    [
        pytest.param("http://127.0.0.1:{unused}", True, id="refused"),
        pytest.param("http://no-such-host.invalid", True, id="no such host"),
        pytest.param("http://127.0.0.1:{dropping}", False, id="closed without a response"),
        pytest.param("http://127.0.0.1:{silent}", False, id="no answer"),
    ],
)
def test_an_error_says_whether_anything_can_have_been_sent(url, unsent):
    held = threading.Event()
    with serving(Reply(drop="before")) as dropping, serving(Reply(200, [held], framing="close")) as silent:
        url = url.format(unused=unused_port(), dropping=dropping.port, silent=silent.port)
        with pytest.raises(TransportError) as caught:
            Transport("http://127.0.0.1", trust_env=False).request("POST", url, timeout=(5, 0.2)).read()
        held.set()

    assert caught.value.unsent is unsent


def test_a_second_try_does_not_forget_that_the_first_was_sent():
    """A kept connection closes with the request on it, and after that the server refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = Transport(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_answer_once_and_go, args=(listener,))
        thread.start()
        transport.request("GET", "/x").read()

        with pytest.raises(TransportError, match="connection refused") as caught:
            transport.request("DELETE", "/x")
        thread.join()

    assert not caught.value.unsent


def _answer_once_and_go(listener):
    with listener.accept()[0] as connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        connection.recv(65_536)
        listener.close()
