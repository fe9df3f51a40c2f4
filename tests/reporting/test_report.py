"""What pytest prints of sandboxes: header, the story of a failed test, summary, and the escaping of all of it."""

import time
from dataclasses import dataclass, field
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.reporting.report import header, story, summary
from pytest_opensandbox.sandbox.history import CommandRecord, History
from pytest_opensandbox.sandbox.tracking import SetupTally, Tally
from pytest_opensandbox.settings.settings import read_settings
from pytest_opensandbox.text import counted, escape

SWEEP = "python -m pytest_opensandbox sweep --run r1 --opensandbox-url=http://box"


@dataclass
class Box:
    """What a story reads of a sandbox."""

    id: str = "box-1"
    image: str = "host"
    state: str = "running"
    prepared_by: str = ""
    history: History = field(default_factory=History)


@dataclass
class Run:
    """What a header reads of a run."""

    settings: object
    run_id: str = "ab12cd34ef56"


def header_for(*, flags=None, environ=None, inis=None):
    return header(Run(read_settings(flags=flags or {}, environ=environ or {}, inis=inis or {})))


def record(command="true", *, started=1.0, outcome="exit 0", stdout="", stderr=""):
    return CommandRecord(command, started, 0.25, outcome, stdout, stderr)


def told(*records, since=0.0):
    return story(Box(history=History(records)), since=since)


@pytest.mark.parametrize(
    ("number", "noun", "phrase"),
    [
        pytest.param(1, ("byte",), "1 byte", id="one"),
        pytest.param(0, ("byte",), "0 bytes", id="none"),
        pytest.param(2000, ("copy", "copies"), "2,000 copies", id="a plural of its own"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, phrase):
    assert counted(number, *noun) == phrase


def test_commands_that_the_history_has_forgotten_are_counted():
    before = [record(started=1.0)] * 5
    first, *_ = told(*before, *[record(started=2.0)] * 59, record("echo last", started=3.0), since=2.0).splitlines()

    assert first == "id=box-1, image=host, running; 60 commands, the last 10 of them"


def test_forgotten_copies_are_counted_as_copies():
    copy = CommandRecord("put 1 byte -> /x", 1.0, 0.1, "done", is_copy=True)

    first, *_ = told(*[copy] * 30, *[record()] * 40).splitlines()

    assert first == "id=box-1, image=host, running; 40 commands and 30 copies, the last 10 of them"


def test_the_header_is_one_short_line_where_nothing_is_set():
    assert header_for() == (
        "opensandbox: embedded (default), image=host (default), isolation=bubblewrap namespaces, run=ab12cd34ef56"
    )


def test_the_header_says_where_there_is_no_filter_for_system_calls(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    assert "isolation=bubblewrap namespaces (no seccomp filter), run" in header_for()


def test_the_header_says_which_place_each_value_came_from():
    line = header_for(
        flags={"image": "a:1"}, environ={"OPEN_SANDBOX_DOMAIN": "box:80"}, inis={"lease": "90", "resources": ""}
    )

    assert line == (
        "opensandbox: http://box:80 (OPEN_SANDBOX_DOMAIN), image=a:1 (flag), resources=none (ini), lease=90 s (ini), "
        "isolation=the server's, run=ab12cd34ef56"
    )


def test_the_header_never_holds_the_key():
    assert "hunter2" not in header_for(environ={"OPEN_SANDBOX_API_KEY": "hunter2", "OPEN_SANDBOX_DOMAIN": "box"})


def test_a_header_cannot_steer_the_terminal():
    assert r"image=\x1b[31mred" in header_for(inis={"image": "\x1b[31mred"})


def test_a_story_names_the_sandbox_and_tells_its_commands_in_order():
    text = told(record("echo hi", stdout="hi\n"), record(["ls", "no such"], outcome="exit 2", stderr="ls: gone\n"))

    assert text.splitlines() == [
        "id=box-1, image=host, running; 2 commands",
        "$ echo hi",
        "  [exit 0, 0.25 s]",
        "  stdout| hi",
        "$ ls 'no such'",
        "  [exit 2, 0.25 s]",
        "  stderr| ls: gone",
    ]


def test_a_story_without_commands_says_so():
    assert told() == "id=box-1, image=host, running; 0 commands"


def test_a_story_leaves_out_what_earlier_tests_did():
    assert "earlier" not in told(record("earlier", started=1.0), record("now", started=3.0), since=2.0)


def test_a_story_is_bounded_in_commands_in_lines_and_in_their_length():
    records = [record(f"command-{n} " + "x" * 10_000, stdout="\n".join(map(str, range(1000)))) for n in range(40)]

    text = told(*records)

    assert text.startswith("id=box-1, image=host, running; 40 commands, the last 10 of them\n$ command-30 ")
    assert "(10,011 characters)" in text
    assert "stdout| 999\n" in text
    assert "stdout| 979\n" not in text
    assert "stdout| … the end of it:\n  stdout| 980\n" in text
    assert len(text) < 16_000


def test_a_story_tells_copies_too():
    copy = CommandRecord("put 3 bytes -> /x", time.monotonic(), 0.01, "done", is_copy=True)

    text = told(record("true"), copy)

    assert text.startswith("id=box-1, image=host, running; 1 command and 1 copy\n")
    assert text.endswith("\nput 3 bytes -> /x\n  [done, 0.01 s]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\tb\nc", "a\tb\nc", id="tab and line break stay"),
        pytest.param("héllo 🐍 漢字", "héllo 🐍 漢字", id="printable text stays"),
        pytest.param("漢\u30001\u00a0000 €", "漢\u30001\u00a0000 €", id="spaces of all scripts stay"),
        pytest.param("👩\u200d💻\ufe0f می\u200cخواهم", "👩\u200d💻\ufe0f می\u200cخواهم", id="joiners stay"),
        pytest.param("\u200f\u2066\ufeff\u00ad", r"\u200f\u2066\ufeff\xad", id="other format characters"),
        pytest.param("\x1b[31mred\x07", r"\x1b[31mred\x07", id="terminal escapes"),
        pytest.param("50%\r100%", r"50%\r100%", id="carriage return"),
        pytest.param("one\r\ntwo", "one\ntwo", id="line end of another system"),
        pytest.param("\0", r"\x00", id="NUL"),
        pytest.param("\u202egnp.exe", r"\u202egnp.exe", id="bidirectional override"),
        pytest.param("\u2028", r"\u2028", id="line separator"),
        pytest.param("\ud800", r"\ud800", id="lone surrogate"),
        pytest.param("\ufffe", r"\ufffe", id="what is no character"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text, shown):
    assert escape(text) == shown


@given(st.text(st.characters(), max_size=40))
def test_escaped_text_is_legal_xml_whatever_it_was(text):
    element = ElementTree.Element("property", value=escape(text))
    element.text = escape(text)

    parsed = ElementTree.fromstring(ElementTree.tostring(element, encoding="unicode"))

    assert (parsed.text or "") == escape(text)


def test_the_summary_says_whose_sandboxes_it_may_not_have_counted():
    """After Ctrl-C xdist hears nobody; the sweep has deleted what there was, but numbers must not seem complete."""
    lines = summary(Tally(created=1, deleted=1), sweep=SWEEP, lease_seconds=60, unheard=["gw0", "gw1"])

    assert lines == [
        ("opensandbox: 1 created, 1 deleted, 0 swept, 0 left; gw0, gw1 stopped before telling all", {}),
    ]


def test_a_run_without_sandboxes_has_no_summary():
    assert summary(Tally(), sweep=SWEEP, lease_seconds=120) == []


def test_a_summary_is_one_line_of_counts_where_all_went_well():
    lines = summary(Tally(created=3, deleted=2, swept=("a",)), sweep=SWEEP, lease_seconds=120)

    assert lines == [("opensandbox: 3 created, 2 deleted, 1 swept, 0 left", {})]


def test_what_is_left_is_named_in_red_with_the_end_of_its_lease(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    end = time.strftime("%H:%M:%S", time.localtime(120))

    lines = summary(Tally(created=2, left=("a", "b")), sweep=SWEEP, lease_seconds=120)

    assert lines == [
        ("opensandbox: 2 created, 0 deleted, 0 swept, 2 left", {"red": True}),
        (f"still running until {end}, when their lease ends: a, b", {"red": True}),
        (f"to delete them now: {SWEEP}", {}),
    ]


def test_what_an_embedded_server_could_not_end_has_no_lease_and_no_command():
    _, (text, _) = summary(Tally(created=1, left=("a",)), sweep="", lease_seconds=120)

    assert (
        text == "did not end when the embedded server ended them; see whether `ps -ef` still shows a bwrap of theirs: a"
    )


def test_a_summary_names_the_workers_that_died_and_why_a_sweep_stopped():
    lines = summary(Tally(created=1, deleted=1), sweep=SWEEP, lease_seconds=60, crashed=["gw0", "gw2"], error="401")

    assert [text for text, _ in lines] == [
        "opensandbox: 1 created, 1 deleted, 0 swept, 0 left; gw0, gw2 crashed",
        "the sweep stopped early: 401",
    ]


def test_a_story_says_which_setup_a_sandbox_was_restored_after():
    text = story(Box(prepared_by="make\x1b[2J"), since=0.0)

    assert text.startswith("id=box-1, image=host, restored after `make\\x1b[2J`, running; 0 commands")


@pytest.mark.parametrize(
    ("setups", "lines"),
    [
        pytest.param(
            SetupTally(built=1, seconds=2.34, restored=40),
            [("setup: 1 prepared and kept in 2.3 s, 40 sandboxes restored", {})],
            id="snapshots",
        ),
        pytest.param(
            SetupTally(repeated=1, repeated_seconds=0.5, reasons=("it has none", "pools")),
            [
                (
                    "setup: run anew in 1 sandbox, 0.5 s in all, for want of snapshots: it has none; pools",
                    {"yellow": True},
                )
            ],
            id="no snapshots",
        ),
        pytest.param(
            SetupTally(left=("p1 (a)", "p2 (b)")),
            [
                ("snapshots stay on the server until somebody deletes them: p1 (a), p2 (b)", {"red": True}),
                (f"to delete them now: {SWEEP}", {}),
            ],
            id="snapshots left",
        ),
        pytest.param(SetupTally(has_snapshots=True), [], id="only by hand"),
    ],
)
def test_a_summary_tells_of_setups_where_there_were_any(setups, lines):
    _, *told = summary(Tally(created=1, deleted=1, setups=setups), sweep=SWEEP, lease_seconds=60)

    assert told == lines


def test_the_header_shows_the_beginning_of_a_long_setup():
    line = header_for(inis={"setup": "echo one\necho " + "x" * 100})

    assert f"setup=echo one; echo {'x' * 44}… (ini)" in line
