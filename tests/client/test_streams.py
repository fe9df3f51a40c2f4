"""Captured output: lines put together, and memory that stays within its bound."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.client.command_run import HeadTailBuffer, Lines


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 60))
def test_a_clip_keeps_the_beginning_and_the_end(writes, max_bytes):
    clip = HeadTailBuffer(max_bytes)
    everything = b"".join(writes)

    for data in writes:
        clip.write(data)

    if len(everything) <= max_bytes:
        assert (clip.content(), clip.truncated) == (everything, False)
    else:
        head, tail = max_bytes - max_bytes // 2, max_bytes // 2
        assert (clip.content(), clip.truncated) == (everything[:head] + everything[len(everything) - tail :], True)


def test_memory_does_not_grow_with_the_output():
    clip = HeadTailBuffer(1_000_000)
    tracemalloc.start()

    for _ in range(3_000):
        clip.write(b"x" * 10_000)
    for _ in range(100_000):
        clip.write(b"y")

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("told", "content"),
    [
        pytest.param(["a", "b"], b"a\nb", id="two lines"),
        pytest.param(["a", "\n", "\n", "b"], b"a\n\n\nb", id="empty lines are told as a newline"),
        pytest.param(["\n"], b"", id="one empty line"),
        pytest.param(["\n", "a"], b"\na", id="an empty first line"),
        pytest.param([], b"", id="nothing"),
        pytest.param(["\ud800"], b"\xed\xa0\x80", id="half a surrogate pair"),
    ],
)
def test_lines_are_joined_as_they_were(told, content):
    lines = Lines(100, None)

    for line in told:
        lines.add(line)

    assert lines.clip.content() == content


def test_a_callback_gets_each_line_without_its_end():
    heard: list[str] = []
    lines = Lines(100, heard.append)

    for line in ("a", "\n", "b"):
        lines.add(line)

    assert heard == ["a", "", "b"]
