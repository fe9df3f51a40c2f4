"""The report of the runner: its lines are read, and what a hostile sandbox writes instead does no harm."""

import base64

import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.sandbox.runner_protocol import Invocation, Report
from pytest_opensandbox.sandbox.stream_reader import MAX_LINE_BYTES, LineSplitter

NONCE = "0123456789abcdef"


def report_of(*lines, **how):
    report = Report(NONCE, Invocation(**{"command": "true", "max_bytes": 100, **how}))
    for line in lines:
        report.add_line(f"{NONCE} {line}")
    return report


def out(text):
    return f"out {len(text)} {base64.b64encode(text).decode()}"


def test_both_streams_and_the_ending_are_read():
    report = report_of(out(b"a\n"), "err 2 YgA=", out(b"c"), "end 768 0 3 2 1500")

    assert (report.stdout.content(), report.stderr.content()) == (b"a\nc", b"b\0")
    assert (report.ending.exit_code, report.ending.signal, report.is_whole) == (3, None, True)


@pytest.mark.parametrize(
    ("status", "code", "signal"),
    [
        pytest.param(2, -2, "SIGINT", id="SIGINT"),
        pytest.param(13, -13, "SIGPIPE", id="SIGPIPE"),
        pytest.param(35, -35, "signal 35", id="a real-time signal"),
        pytest.param(128 + 6, -6, "SIGABRT", id="with a core"),
        pytest.param(130 << 8, 130, None, id="an exit code like that of a signal"),
    ],
)
def test_a_wait_status_tells_signals_from_exit_codes(status, code, signal):
    ending = report_of(f"end {status} 0 0 0 1").ending

    assert (ending.exit_code, ending.signal) == (code, signal)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("out 3 YWI=", id="another length than announced"),
        pytest.param("out 2 YWI", id="a piece that was cut off"),
        pytest.param("out 2 gr\u00fcn", id="no base64"),
        pytest.param("out", id="nothing"),
        pytest.param("end 0 0 0 0", id="an ending without its time"),
        pytest.param("end x 0 0 0 0", id="letters for a number"),
        pytest.param(f"end {'9' * 5000} 0 0 0 0", id="a number without end"),
        pytest.param("end 65536 0 0 0 0", id="no wait status"),
        pytest.param("end 127 0 0 0 0", id="a stopped process"),
        pytest.param("end \u0663 0 0 0 0", id="digits of another script"),
        pytest.param("fail exec \u0663", id="an error's number of another script"),
        pytest.param(f"fail exec {2**40}", id="an error's number beyond all numbers"),
        pytest.param("what 1 2", id="an unknown word"),
        pytest.param("", id="an empty line"),
    ],
)
def test_a_line_that_breaks_the_protocol_is_skipped(line):
    report = report_of(line)

    assert report.is_empty
    assert report.ending is None


def test_lines_without_the_nonce_are_noise():
    report = report_of()

    for line in ("end 0 0 0 0 1", "fedcba9876543210 end 0 0 0 0 1", f"x{NONCE} end 0 0 0 0 1"):
        report.add_line(line)

    assert report.is_empty


def test_what_comes_after_the_ending_changes_nothing():
    report = report_of("end 0 0 0 0 1", out(b"late"), "end 256 0 0 0 1", "refuse s2")

    assert (report.stdout.content(), report.ending.status, report.other_sandbox) == (b"", 0, "")


@pytest.mark.parametrize(
    ("lines", "whole"),
    [
        pytest.param([out(b"ab"), "end 0 0 2 0 1"], True, id="all of it"),
        pytest.param([out(b"ab"), "end 0 0 3 0 1"], False, id="a byte is missing"),
        pytest.param([out(b"ab"), "end 0 0 1 0 1"], False, id="a byte too many"),
        pytest.param([out(b"x" * 100), "end 0 0 900 0 1"], True, id="as much as was asked for"),
        pytest.param([out(b"x" * 99), "end 0 0 900 0 1"], False, id="less than was asked for"),
        pytest.param([out(b"ab")], False, id="no ending"),
    ],
)
def test_output_that_did_not_arrive_is_noticed(lines, whole):
    assert report_of(*lines).is_whole is whole


def test_what_lies_in_a_file_keeps_its_place():
    report = report_of(out(b"ab"), "file out 3", out(b"fg"), "end 0 0 7 0 1")
    (word, stream), *others = report.files

    assert (word, others, report.is_whole) == ("out", [], False)
    stream.add_file([b"cd", b"e"])
    assert (report.stdout.content(), report.is_whole, report.files) == (b"abcdefg", True, [])


@pytest.mark.parametrize("content", [[b"cd"], [b"cdef"], [], [b"cd"] * 50], ids=["short", "long", "empty", "endless"])
def test_a_file_of_another_length_is_noticed(content):
    report = report_of(out(b"ab"), "file out 3", out(b"fg"), "end 0 0 7 0 1")

    report.files[0][1].add_file(content)

    assert not report.is_whole
    assert report.stdout.received < 12


@pytest.mark.parametrize(
    ("line", "how"),
    [
        pytest.param("file out 101", {}, id="more than is kept"),
        pytest.param("file in 3", {}, id="another stream"),
        pytest.param("file out", {}, id="no length"),
        pytest.param("file out -3", {}, id="a negative length"),
        pytest.param("file out 3", {"on_stdout": print}, id="a live command"),
    ],
)
def test_a_file_that_was_not_asked_for_is_not_read(line, how):
    assert report_of(line, **how).files == []


def test_a_live_request_names_no_file():
    requests = [
        Invocation(command="x", max_bytes=9, on_stdout=callback).request(
            NONCE, "s1", output_path="/var/tmp/long-", makes_workspace=False
        )
        for callback in (None, print)
    ]

    assert [b"f14:/var/tmp/long-" in request for request in requests] == [True, False]


def test_a_sandbox_that_sends_more_than_was_asked_for_fills_nothing():
    report = report_of(*[out(b"x" * 1000)] * 50)

    assert len(report.stdout.content()) == 100


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        pytest.param([b"a\nb", b"c\n"], ["a", "bc"], id="a line in two pieces"),
        pytest.param([b"a\r", b"\nb\r", b"c"], ["a", "b", "c"], id="carriage returns"),
        pytest.param([b"a\r\n", b"\n"], ["a", ""], id="an empty line"),
        pytest.param([b"\xc3", b"\xa9\n\xff"], ["é", "\ufffd"], id="a character in two pieces, and none"),
    ],
)
def test_pieces_are_cut_into_lines(pieces, lines):
    seen = []
    splitter = LineSplitter(seen.append)

    for piece in pieces:
        splitter.feed(piece)
    splitter.finish()

    assert seen == lines


def test_a_line_without_end_is_passed_on_in_parts():
    seen = []
    splitter = LineSplitter(seen.append)

    for _ in range(3):
        splitter.feed(b"x" * (MAX_LINE_BYTES // 2 + 1))

    assert [len(line) for line in seen] == [MAX_LINE_BYTES + 2]


def test_a_request_holds_what_was_asked_for():
    invocation = Invocation(
        command=["a", "é\n"], cwd="/w", env={"A": "1"}, uid=5, timeout=1.5, stdin=b"\0", max_bytes=9, on_stdout=print
    )

    request = invocation.request(NONCE, "s1", makes_workspace=True)

    assert request.startswith(b"v1:1k3:runn16:0123456789abcdefb2:s1a1:aa3:\xc3\xa9\ne3:A=1")
    for field in (b"c2:/w", b"u1:5", b"i1:\0", b"t4:1500", b"m1:9", b"d10:/workspace", b"p0:", b"l0:"):
        assert field in request


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param({"command": []}, "command", id="no word"),
        pytest.param({"env": {"": "x"}}, "env", id="a variable without a name"),
        pytest.param({"max_bytes": 1}, "max_bytes", id="too few bytes for both ends"),
        pytest.param({"max_bytes": "9"}, "max_bytes", id="text for a number of bytes"),
        pytest.param({"cwd": "rel"}, "^cwd must be the absolute", id="a relative directory"),
        pytest.param({"timeout": "5"}, "^timeout", id="text for seconds"),
        pytest.param({"uid": -1}, "^uid", id="a negative user"),
        pytest.param({"gid": 5}, "^gid must come with a uid", id="a group without a user"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_its_name(arguments, field):
    with pytest.raises(ConfigError, match=field):
        Invocation(**{"command": "true", "max_bytes": 100, **arguments})
