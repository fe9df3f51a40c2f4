"""The events of a running command: its output cut into lines, pings meanwhile, and how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring
from typing import BinaryIO

from .http import decode, encode, escape
from .processes import WatchedProcess

CHUNK_BYTES = 32_768
PING_SECONDS = 3.0
_QUICK_SECONDS, _SLOW_SECONDS = 0.005, 0.1
"""Seconds between two reads of the output: short after there was some, longer while there is none."""


class LineSplitter:
    r"""Cuts a stream of bytes at ``\n`` or ``\r``; ``\r\n`` is one end of line even when it comes in two pieces.

    An empty line is given as ``b"\n"``, because an event without text would be lost. The last line is held back
    until its end comes or the stream ends, however long it is.
    """

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end within ``data``."""
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        if not data:
            return []
        self._after_return = data.endswith(b"\r")
        pieces = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(pieces) > 1:
            pieces[0] = b"".join([*self._held, pieces[0]])
            self._held.clear()
        self._held.append(pieces.pop())
        return [piece or b"\n" for piece in pieces]

    def end(self) -> list[bytes]:
        """Return the unfinished last line, if there is one."""
        rest = b"".join(self._held)
        self._held.clear()
        return [rest] if rest else []


class FileTail:
    """Reads a file that a command is still writing.

    Args:
        file: opened for reading; its position is left alone, because the command may share it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self._splitter = LineSplitter()

    def lines(self) -> Iterator[list[bytes]]:
        """Yield batches of the lines that were finished since the last call, up to the present end of the file."""
        end = os.fstat(self._file.fileno()).st_size
        while self._position < end:
            data = os.pread(self._file.fileno(), min(CHUNK_BYTES, end - self._position), self._position)
            if not data:
                return
            self._position += len(data)
            yield self._splitter.feed(data)

    def end(self) -> list[bytes]:
        """Return the unfinished last line, if there is one."""
        return self._splitter.end()


def init(identifier: str) -> bytes:
    """The first event; its text is the id of the command or session."""
    return _frame({"type": "init", "text": identifier, "timestamp": now()})


def ping() -> bytes:
    """The event that says that the agent is still there."""
    return _frame({"type": "ping", "text": "pong", "timestamp": now()})


def output(kind: str, lines: Iterable[bytes]) -> bytes:
    """One event a line, of type ``stdout`` or ``stderr``."""
    # Put together by hand: a dictionary and an encoder for each of 200,000 lines would take seconds.
    head, tail = f'{{"type":"{kind}","text":', f',"timestamp":{now()}}}\n\n'
    return escape("".join([f"{head}{encode_basestring(decode(line))}{tail}" for line in lines])).encode()


def complete(milliseconds: int) -> bytes:
    """The last event of a command that succeeded; a duration of 0 is left out."""
    duration = {"execution_time": milliseconds} if milliseconds else {}
    return _frame({"type": "execution_complete", **duration, "timestamp": now()})


def error(value: str, trace: str) -> bytes:
    """The last event of a command that failed: exit code or reason, and the same in words."""
    content = {"ename": "CommandExecError", "evalue": value, "traceback": [trace]}
    return _frame({"type": "error", "timestamp": now(), "error": content})


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Pings:
    """Says when the next ping is due."""

    def __init__(self) -> None:
        self._due = time.monotonic() + PING_SECONDS

    def due(self) -> bytes:
        """Return a ping when three seconds have passed since the last one, else nothing."""
        if time.monotonic() < self._due:
            return b""
        self._due += PING_SECONDS
        return ping()


def follow(process: WatchedProcess, started_at: int, stdout: BinaryIO, stderr: BinaryIO) -> Iterator[bytes]:
    """Yield events until the process has ended and its output is drained; the last one says how it ended.

    Args:
        process: the process.
        started_at: nanoseconds since the epoch.
        stdout: the file that its standard output goes to.
        stderr: the file that its standard error goes to.
    """
    tails = {"stdout": FileTail(stdout), "stderr": FileTail(stderr)}
    pings = Pings()
    pause = _QUICK_SECONDS
    while not process.ended.wait(pause):
        pause = min(pause * 1.5, _SLOW_SECONDS)
        for frames in _new_output(tails):
            pause = _QUICK_SECONDS
            yield frames
        yield pings.due()
    yield from _new_output(tails)
    for kind, tail in tails.items():
        yield output(kind, tail.end())
    yield _last(process, started_at)


def _new_output(tails: dict[str, FileTail]) -> Iterator[bytes]:
    for kind, tail in tails.items():
        for lines in tail.lines():
            if lines:
                yield output(kind, lines)


def _last(process: WatchedProcess, started_at: int) -> bytes:
    if process.exit_code == 0:
        return complete((time.time_ns() - started_at) // 1_000_000)
    return error(str(process.exit_code), process.error)


def _frame(event: dict[str, object]) -> bytes:
    return encode(event) + b"\n\n"
