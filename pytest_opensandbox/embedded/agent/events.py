"""The events of a running command: one JSON object and two newlines each, without ``data:``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from json.encoder import encode_basestring

from .answers import decode, encode, escape

PING_SECONDS = 3.0


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


def _frame(event: dict[str, object]) -> bytes:
    return encode(event) + b"\n\n"
