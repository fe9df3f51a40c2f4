"""The event stream's parser: the same events however the bytes are cut, in linear time."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.client.event_stream import Event, EventError, EventParser
from pytest_opensandbox.errors import ProtocolError

LINES = st.lists(
    st.one_of(
        st.builds(lambda text: json.dumps({"type": "stdout", "text": text}, ensure_ascii=False), st.text()),
        st.builds(lambda text: f'data: {{"type": "stderr", "text": {json.dumps(text)}}}', st.text()),
        st.sampled_from(["", ": a comment", "event: message", "id: 7", "retry: 10", "data: [DONE]", "\t"]),
    ),
    max_size=8,
)


def parse(*pieces: bytes) -> list[Event]:
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish()]


@given(lines=LINES, end=st.sampled_from(["\n", "\n\n", "\r\n", "\r\n\r\n"]), data=st.data())
def test_any_cut_of_the_bytes_gives_the_same_events(lines, end, data):
    stream = "".join(line + end for line in lines).encode("utf-8", "surrogatepass")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))

    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert parse(*pieces) == parse(stream)
    assert len(parse(stream)) == sum("type" in line for line in lines)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_out_as_it_went_in(text):
    line = json.dumps({"type": "stdout", "text": text}, ensure_ascii=False).encode()

    (event,) = parse(line + b"\n\n")

    assert event == Event("stdout", text)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_unicode_line_separator_ends_no_event(separator):
    line = f'{{"type":"stdout","text":"a{separator}b"}}'

    assert parse(line.encode() + b"\n\n") == [Event("stdout", f"a{separator}b")]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="blank"),
        pytest.param(b": keep-alive", id="comment"),
        pytest.param(b"event: message", id="event field"),
        pytest.param(b"data:", id="empty data"),
        pytest.param(b"data: [DONE]", id="data that is no object"),
        pytest.param(b"<html>", id="HTML"),
    ],
)
def test_what_is_no_event_is_skipped(line):
    assert parse(line + b"\n") == []


@pytest.mark.parametrize("prefix", [b"", b"data:", b"data: ", b"  data:  "])
def test_a_data_field_may_stand_before_the_object(prefix):
    assert parse(prefix + b'{"type":"init","text":"7"}\r\n\r\n') == [Event("init", "7")]


def test_several_events_in_one_chunk_come_in_order():
    events = parse(b'{"type":"stdout","text":"a"}\n\n{"type":"stdout","text":"b"}\n{"type":"execution_complete"}\n\n')

    assert [event.type for event in events] == ["stdout", "stdout", "execution_complete"]


def test_the_error_of_an_event_is_read():
    line = b'{"type":"error","timestamp":5,"execution_time":7,"error":{"ename":"E","evalue":"3","traceback":["a","b"]}}'

    (event,) = parse(line + b"\n\n")

    assert event == Event("error", error=EventError("E", "3", ("a", "b")))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            b'{"type":"error","error":{"traceback":null}}', Event("error", error=EventError()), id="null list"
        ),
        pytest.param(b'{"type":"x","timestamp":"now","text":5}', Event("x", "5"), id="other types"),
        pytest.param(b'{"type":"error","error":"text"}', Event("error"), id="error that is no object"),
        pytest.param(b'{"type":"stdout","text":null,"new":[1]}', Event("stdout"), id="null and unknown"),
    ],
)
def test_fields_of_another_shape_are_tolerated(line, expected):
    assert parse(line + b"\n\n") == [expected]


def test_a_last_error_object_without_type_and_without_an_end_is_an_event():
    events = parse(b'{"type":"init","text":"7"}\n\n{"code":"RUNTIME_ERROR","message":"timeout after 300ms"}')

    assert events[1] == Event("", error=EventError("RUNTIME_ERROR", "timeout after 300ms"))


def test_half_an_event_at_the_end_is_none():
    assert parse(b'{"type":"stdout","text":"a"}\n\n{"type":"execution_comp') == [Event("stdout", "a")]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"type":', id="cut"),
        pytest.param(b"{nope}", id="not JSON"),
        pytest.param(b'{"a":' + b"[" * 200_000, id="deeper than any stack"),
    ],
)
def test_an_object_that_is_broken_in_the_middle_of_a_stream_is_an_error(line):
    with pytest.raises(ProtocolError, match="not JSON"):
        parse(line + b"\n")


def test_a_line_beyond_the_limit_is_an_error_before_it_is_kept():
    parser = EventParser(max_event_bytes=1000)

    for _ in range(10):
        assert list(parser.feed(b"x" * 100)) == []

    with pytest.raises(ProtocolError, match="1,000 bytes"):
        list(parser.feed(b"x"))


def test_bytes_that_are_not_utf8_become_replacement_characters():
    assert parse(b'{"type":"stdout","text":"\xff"}\n') == [Event("stdout", "\N{REPLACEMENT CHARACTER}")]


def _long_line(megabytes: int) -> bytes:
    return b'{"type":"stdout","text":"%s"}\n\n' % (b"x" * (megabytes * 1_000_000))


def _many_lines(thousands: int) -> bytes:
    return b'{"type":"stdout","text":"line"}\n\n' * (thousands * 1_000)


def _seconds(stream: bytes, *, piece_bytes: int) -> float:
    def once() -> float:
        started = time.process_time()
        parse(*(stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)))
        return time.process_time() - started

    return min(once() for _ in range(3))


# Re-scanning what was already there made 200,000 lines take three minutes: the time must grow with the bytes alone.
@pytest.mark.parametrize(
    ("small", "large"),
    [
        pytest.param(_long_line(1), _long_line(20), id="one line of 20 MB"),
        pytest.param(_many_lines(10), _many_lines(200), id="200,000 lines"),
    ],
)
def test_twenty_times_the_bytes_take_nowhere_near_the_square_of_twenty(small, large):
    ratio = _seconds(large, piece_bytes=4096) / _seconds(small, piece_bytes=4096)

    assert ratio < 130, f"20 times the bytes took {ratio:.0f} times as long"
