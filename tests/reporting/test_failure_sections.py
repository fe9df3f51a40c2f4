"""The transcript of a sandbox in a failed test's report."""

import time
from dataclasses import dataclass, field

from pytest_opensandbox.reporting.failure_sections import transcript
from pytest_opensandbox.sandbox.history import CommandRecord, History
from pytest_opensandbox.sandbox.process import Process


@dataclass
class RecordedSandbox:
    """The attributes of a sandbox that a transcript reads."""

    id: str = "sandbox-1"
    image: str = "host"
    state: str = "running"
    prepared_by: str = ""
    history: History = field(default_factory=History)
    processes: tuple[Process, ...] = ()


def record(command="true", *, started=1.0, outcome="exit 0", stdout="", stderr=""):
    return CommandRecord(command, started, 0.25, outcome, stdout, stderr)


def transcript_of(*records, since=0.0):
    return transcript(RecordedSandbox(history=History(records)), since=since)


def test_commands_that_the_history_has_forgotten_are_counted():
    before = [record(started=1.0)] * 5
    first, *_ = transcript_of(
        *before, *[record(started=2.0)] * 59, record("echo last", started=3.0), since=2.0
    ).splitlines()

    assert first == "id=sandbox-1, image=host, running; 60 commands, the last 10 of them"


def test_forgotten_copies_are_counted_as_copies():
    copy = CommandRecord("put 1 byte -> /x", 1.0, 0.1, "done", is_copy=True)

    first, *_ = transcript_of(*[copy] * 30, *[record()] * 40).splitlines()

    assert first == "id=sandbox-1, image=host, running; 40 commands and 30 copies, the last 10 of them"


def test_a_transcript_names_the_sandbox_and_lists_its_commands_in_order():
    text = transcript_of(
        record("echo hi", stdout="hi\n"), record(["ls", "no such"], outcome="exit 2", stderr="ls: gone\n")
    )

    assert text.splitlines() == [
        "id=sandbox-1, image=host, running; 2 commands",
        "$ echo hi",
        "  [exit 0, 0.25 s]",
        "  stdout| hi",
        "$ ls 'no such'",
        "  [exit 2, 0.25 s]",
        "  stderr| ls: gone",
    ]


def test_a_transcript_shows_processes_with_their_last_lines():
    process = Process(["serve", "a b"], max_bytes=1000, send=lambda group, number: 0)
    process.on_start(7, 6)
    process.on_output("stderr", b"address in use\n")

    running = transcript(RecordedSandbox(processes=(process,)), since=0.0).splitlines()
    process.on_exit(1)
    ended = transcript(RecordedSandbox(processes=(process,)), since=0.0).splitlines()

    assert running[1:] == ["$ serve 'a b' &", "  [process 7, running]", "  stderr| address in use"]
    assert ended[2] == "  [process 7, exit 1]"


def test_a_transcript_without_commands_says_so():
    assert transcript_of() == "id=sandbox-1, image=host, running; 0 commands"


def test_a_transcript_leaves_out_what_earlier_tests_did():
    assert "earlier" not in transcript_of(record("earlier", started=1.0), record("now", started=3.0), since=2.0)


def test_a_transcript_is_bounded_in_commands_in_lines_and_in_their_length():
    records = [record(f"command-{n} " + "x" * 10_000, stdout="\n".join(map(str, range(1000)))) for n in range(40)]

    text = transcript_of(*records)

    assert text.startswith("id=sandbox-1, image=host, running; 40 commands, the last 10 of them\n$ command-30 ")
    assert "(10,011 characters)" in text
    assert "stdout| 999\n" in text
    assert "stdout| 979\n" not in text
    assert "stdout| … the end of it:\n  stdout| 980\n" in text
    assert len(text) < 16_000


def test_a_transcript_shows_copies_too():
    copy = CommandRecord("put 3 bytes -> /x", time.monotonic(), 0.01, "done", is_copy=True)

    text = transcript_of(record("true"), copy)

    assert text.startswith("id=sandbox-1, image=host, running; 1 command and 1 copy\n")
    assert text.endswith("\nput 3 bytes -> /x\n  [done, 0.01 s]")


def test_a_transcript_says_which_setup_a_sandbox_was_restored_after():
    text = transcript(RecordedSandbox(prepared_by="make\x1b[2J"), since=0.0)

    assert text.startswith("id=sandbox-1, image=host, restored after `make\\x1b[2J`, running; 0 commands")
