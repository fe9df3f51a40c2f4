"""Requests brought to handlers, JSON bodies read field by field, and JSON, text and times as the agent writes them."""

import pytest

from pytest_opensandbox.embedded.agent import http
from pytest_opensandbox.embedded.agent.http import BadBodyError, JsonObject, Response, Router


def answer(router: Router, method: str, path: str) -> tuple[str, bytes]:
    """Return status line and body of what a router answers."""
    heads = []
    pieces = router({"REQUEST_METHOD": method, "PATH_INFO": path}, lambda status, headers: heads.append(status))
    return heads[0], b"".join(pieces)


def test_a_handler_is_given_the_segments_that_stars_stand_for():
    router = Router([("GET", "/a/*/b/*", lambda _, one, two: Response(f"{one} {two}".encode()))])

    assert answer(router, "GET", "/a/1/b/\xc3\xa9") == ("200 OK", "1 é".encode())
    assert answer(router, "GET", "/a//b/2")[0] == "404 Not Found"
    assert answer(router, "POST", "/a/1/b/2")[0] == "404 Not Found"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        pytest.param(FileNotFoundError(2, "missing", "/x"), "404 Not Found", b"FILE_NOT_FOUND", id="missing file"),
        pytest.param(PermissionError(13, "not allowed", "/x"), "500 Internal Server Error", b"RUNTIME", id="other"),
        pytest.param(KeyError("x"), "500 Internal Server Error", b"the agent failed", id="fault of the agent"),
    ],
)
def test_what_a_handler_raises_becomes_a_response(error, status, code):
    def fail(_):
        raise error

    found = answer(Router([("GET", "/x", fail)]), "GET", "/x")

    assert found[0] == status
    assert code in found[1]


def test_head_is_answered_without_a_body():
    assert answer(Router([("GET", "/x", lambda _: Response(b"x"))]), "HEAD", "/x") == ("404 Not Found", b"")


@pytest.mark.parametrize("body", [b"", b'{"a":', b'{"a":"x', b"{nope", b'{"a" 1}', b"nonsense"])
def test_a_body_that_is_no_json_is_refused(body):
    with pytest.raises(BadBodyError, match="no JSON"):
        http.parse(body)


def test_what_follows_the_json_is_ignored():
    assert http.parse(b' {"a":1} trailing') == {"a": 1}


@pytest.mark.parametrize("value", [5, True, [], {}])
def test_a_field_of_the_wrong_type_is_named(value):
    with pytest.raises(BadBodyError, match="command: a string is expected"):
        JsonObject({"command": value}).text("command")


@pytest.mark.parametrize("value", [True, "1", 1.0])
def test_only_an_integer_is_a_number(value):
    with pytest.raises(BadBodyError, match="timeout: an integer is expected"):
        JsonObject({"timeout": value}).number("timeout")


def test_a_number_out_of_range_is_refused():
    with pytest.raises(BadBodyError, match="uid: -1 is out of range"):
        JsonObject({"uid": -1}).number("uid", range(10))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b"\xff\xfe", "\ufffd\ufffd", id="bytes that begin nothing"),
        pytest.param(b"\xe2\x82x", "\ufffd\ufffdx", id="each byte of an unfinished character"),
    ],
)
def test_each_byte_that_is_not_utf8_becomes_one_replacement_character(line, text):
    assert http.decode(line) == text


def test_a_name_that_is_not_utf8_can_be_shown():
    assert http.encode({"path": "a\udcffb"}).decode() == '{"path":"a\ufffdb"}'


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        pytest.param(1795434878918007692, "2026-11-23T11:54:38.918007692Z", id="nanoseconds"),
        pytest.param(1795434878923710320, "2026-11-23T11:54:38.92371032Z", id="trailing zero dropped"),
        pytest.param(1795434878000000000, "2026-11-23T11:54:38Z", id="no fraction"),
    ],
)
def test_times_are_in_utc_without_trailing_zeros(nanoseconds, text):
    assert http.timestamp(nanoseconds) == text
