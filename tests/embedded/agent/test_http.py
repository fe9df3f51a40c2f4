"""JSON bodies read field by field, and JSON, text and times as the agent writes them."""

import pytest

from pytest_opensandbox.embedded.agent import http
from pytest_opensandbox.embedded.agent.http import BadBodyError, JsonObject


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
