"""A running command as events: its output while it is written, pings meanwhile, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import BinaryIO

from . import events
from .lines import Tail
from .processes import WatchedProcess

_QUICK_SECONDS, _SLOW_SECONDS = 0.005, 0.1
"""Between two looks at the output: quick after there was some, slower the longer it is silent."""


def follow(child: WatchedProcess, started_at: int, stdout: BinaryIO, stderr: BinaryIO) -> Iterator[bytes]:
    """Yield events until the process has ended and its output is drained; the last one says how it ended.

    Args:
        child: the process.
        started_at: nanoseconds since the epoch.
        stdout: the file that its standard output goes to.
        stderr: the file that its standard error goes to.
    """
    tails = {"stdout": Tail(stdout), "stderr": Tail(stderr)}
    pings = events.Pings()
    pause = _QUICK_SECONDS
    while not child.ended.wait(pause):
        pause = min(pause * 1.5, _SLOW_SECONDS)
        for frames in _news(tails):
            pause = _QUICK_SECONDS
            yield frames
        yield pings.due()
    yield from _news(tails)
    for kind, tail in tails.items():
        yield events.output(kind, tail.end())
    yield _last(child, started_at)


def _news(tails: dict[str, Tail]) -> Iterator[bytes]:
    for kind, tail in tails.items():
        for lines in tail.lines():
            if lines:
                yield events.output(kind, lines)


def _last(child: WatchedProcess, started_at: int) -> bytes:
    if child.exit_code == 0:
        return events.complete((time.time_ns() - started_at) // 1_000_000)
    return events.error(str(child.exit_code), child.error)
