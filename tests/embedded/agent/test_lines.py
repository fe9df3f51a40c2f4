"""Output cut into lines, and lines put into events."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.embedded.agent import events, http
from pytest_opensandbox.embedded.agent.events import LineSplitter
from pytest_opensandbox.embedded.agent.sessions import LONGEST_LINE_BYTES, RunFailedError, ScriptOutput

output = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\xc3\xa9", b"\xff", b"\0"])).map(b"".join)


def expected_lines(data: bytes) -> list[bytes]:
    """Return what one byte after the other gives; slow and plain."""
    lines, line, after_return = [], b"", False
    for byte in data:
        if byte in b"\r\n":
            if line or not (byte == 10 and after_return):
                lines.append(line or b"\n")
            line, after_return = b"", byte == 13
        else:
            line, after_return = line + bytes([byte]), False
    return [*lines, line] if line else lines


@given(output, st.lists(st.integers(0, 60)))
def test_any_split_of_the_bytes_gives_the_same_lines(data, cuts):
    splitter, edges = LineSplitter(), sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})

    lines = [line for start, end in pairwise(edges) for line in splitter.feed(data[start:end])]

    assert [*lines, *splitter.end()] == expected_lines(data)


def test_a_line_is_held_back_until_its_end_comes():
    splitter = LineSplitter()

    before = splitter.feed(b"whole\nhal")

    assert before == [b"whole"]
    assert splitter.feed(b"f\n") == [b"half"]


@given(st.lists(st.text(), max_size=5))
def test_events_are_json_that_says_the_same(texts):
    lines = [text.encode("utf-8", "replace") for text in texts]

    frames = events.output("stdout", lines).split(b"\n\n")[:-1]

    assert [json.loads(frame)["text"] for frame in frames] == [line.decode() for line in lines]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param("<a href='x'>&", r"\u003ca href='x'\u003e\u0026", id="characters of HTML"),
        pytest.param("a\u2028b\u2029c", r"a\u2028b\u2029c", id="line separators of Unicode"),
        pytest.param("é 🐍", "é 🐍", id="other characters stay"),
        pytest.param('"\\\t\x00\x1b', r"\"\\\t\u0000\u001b", id="quotes and control characters"),
    ],
)
def test_text_is_escaped_as_go_does(line, text):
    frame = events.output("stdout", [line.encode()])

    assert frame.decode().startswith(f'{{"type":"stdout","text":"{text}","timestamp":')


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b"\xff\xfe", "\ufffd\ufffd", id="bytes that begin nothing"),
        pytest.param(b"\xe2\x82x", "\ufffd\ufffdx", id="each byte of an unfinished character"),
    ],
)
def test_each_byte_that_is_not_utf8_becomes_one_replacement_character(line, text):
    assert http.decode(line) == text


def test_a_name_that_is_not_utf8_can_be_told_about():
    assert http.encode({"path": "a\udcffb"}).decode() == '{"path":"a\ufffdb"}'


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        pytest.param(1795434878918007692, "2026-11-23T11:54:38.918007692Z", id="nanoseconds"),
        pytest.param(1795434878923710320, "2026-11-23T11:54:38.92371032Z", id="trailing zero dropped"),
        pytest.param(1795434878000000000, "2026-11-23T11:54:38Z", id="no fraction"),
    ],
)
def test_times_are_written_as_go_does(nanoseconds, text):
    assert http.timestamp(nanoseconds) == text


@pytest.mark.parametrize(
    ("dumped", "value"),
    [
        pytest.param(b'declare -x A="x y"', "x y", id="plain"),
        pytest.param(b'declare -x A="q\\"b\\\\"', 'q"b\\', id="quote and backslash"),
        pytest.param(b'declare -x A="\\$x"', "\\$x", id="a dollar keeps its backslash, as in ExecD"),
        pytest.param(b"declare -x A", "", id="no value"),
    ],
)
def test_a_session_reads_what_bash_exports(dumped, value):
    printed = ScriptOutput()

    printed.feed(b"__ENV_DUMP_START__\n" + dumped + b"\n__ENV_DUMP_END__\n")

    assert printed.variables == {"A": value}


def test_a_session_gives_up_on_a_line_of_16_mebibytes():
    printed = ScriptOutput()
    printed.feed(b"x" * (LONGEST_LINE_BYTES - 1))

    with pytest.raises(RunFailedError):
        printed.feed(b"x")
