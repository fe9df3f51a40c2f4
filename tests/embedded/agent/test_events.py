"""Output cut into lines, and lines put into events."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.embedded.agent import events
from pytest_opensandbox.embedded.agent.events import LineSplitter

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
def test_text_in_events_is_escaped_as_by_go(line, text):
    frame = events.output("stdout", [line.encode()])

    assert frame.decode().startswith(f'{{"type":"stdout","text":"{text}","timestamp":')
