"""The log of a sandbox: lines, times, size, and what a flood of output costs the server."""

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pytest_opensandbox.embedded.runtime.log import Log
from tests.embedded.machine import wait_until

SPACE = 256 * 1024


def lines(log, **options):
    return [line.partition(" ")[2] for line in log.text(tail=10_000, **options).splitlines()]


def written(*pieces):
    log = Log()
    for piece in pieces:
        log.write(piece)
    return log


def test_lines_are_whole_however_they_come():
    assert lines(written(b"one\ntw", b"o", b"\n", b"\nthr", b"ee")) == ["one", "two", "", "three"]


def test_each_line_has_the_time_when_it_was_complete():
    log = written(b"one\ntw")
    between = datetime.now(timezone.utc)
    log.write(b"o\nthree\n")

    assert lines(log, since=between) == ["two", "three"]
    assert lines(log, since=between + timedelta(hours=1)) == []


def test_the_last_lines_can_be_had():
    assert written(b"one\ntwo\nthree\n").text(tail=2).count("\n") == 2


def test_what_is_not_text_is_shown_all_the_same():
    assert lines(written(b"\xff\n")) == ["\ufffd"]


def test_the_oldest_lines_are_dropped_whole():
    printed = "".join(f"line {number:90}\n" for number in range(10_000)).encode()
    log = written(*(printed[at : at + 777] for at in range(0, len(printed), 777)))

    kept = lines(log)

    assert SPACE * 0.9 < sum(len(line) + 1 for line in kept) < SPACE * 1.1
    assert kept == printed.decode().splitlines()[-len(kept) :]


def test_a_line_that_is_longer_than_the_space_shows_its_end():
    (line,) = lines(written(*(b"x" * 65536 for _ in range(20)), b"end"))

    assert line.endswith("xend")
    assert len(line) < SPACE * 2


def test_single_bytes_take_no_more_room_than_they_are_worth():
    log = written(*(b"x" for _ in range(100_000)))

    assert len(lines(log)[0]) <= 8192


@pytest.mark.parametrize("flood", ["yes > /proc/2/fd/2", "head -c 100000000000 /dev/zero > /proc/1/fd/1"])
def test_who_prints_without_end_waits_and_not_the_server(machine, flood):
    """Processor time is measured, so that load on the machine does not count."""

    def used_seconds():
        fields = Path(f"/proc/{machine.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    sandbox_id = machine.create()
    machine.run(sandbox_id, f"setsid sh -c '{flood}' > /dev/null 2>&1 &")
    assert wait_until(lambda: len(machine.client.diagnostics(sandbox_id, "logs")) > 100)
    before, began = used_seconds(), time.monotonic()

    time.sleep(2)

    assert (used_seconds() - before) / (time.monotonic() - began) < 0.25
    assert machine.run(sandbox_id, "echo here").stdout == "here"
    machine.client.delete_sandbox(sandbox_id)
