"""A parser for the agent's event stream; bytes go in as they arrive, events come out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pytest_opensandbox.errors import ProtocolError
from pytest_opensandbox.transport.response import read_json

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Longest line that is read as an event; each line of output is one event, and a line of 20 MB is ordinary."""

_DATA_FIELD = b"data:"
_SHOWN_BYTES = 200


class EventError(NamedTuple):
    """How a command ended, where it did not exit with 0."""

    ename: str = ""
    """Kind, such as ``CommandExecError``."""
    evalue: str = ""
    """The exit code as digits, ``-1`` for a signal, or a sentence where nothing was started."""
    traceback: tuple[str, ...] = ()
    """Lines such as ``exit status 3`` or ``signal: killed``."""


class Event(NamedTuple):
    """One event of a stream."""

    type: str
    """``init``, ``ping``, ``stdout``, ``stderr``, ``execution_complete``, ``error`` …; "" for a bare error object."""
    text: str = ""
    """One line of output without its end, the id of the command for ``init``, else ""."""
    error: EventError | None = None
    """Set for ``error`` and for a bare error object."""


class EventParser:
    """Turns bytes into events, in time that grows with the bytes and not with the way they were cut.

    Events are JSON objects, one per line, bare or after ``data:``; the parser skips all other lines.
    Lines end at LF only: U+2028 and its like may stand inside a JSON text.

    Args:
        max_event_bytes: longest line that is accepted; bytes.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pieces: list[bytes] = []
        self._held_bytes = 0

    @property
    def is_between_events(self) -> bool:
        """Whether the bytes so far end with a whole event."""
        return not self._held_bytes

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete.

        Raises:
            ProtocolError: a line is longer than allowed, or begins as an object and is not one.
        """
        # Pieces of a line that has not ended are joined once, so that a long line is not scanned again and again.
        *ended, rest = data.split(b"\n")
        for line in ended:
            if self._pieces:
                line = self._join(line)
            event = _parse_line(line)
            if event is not None:
                yield event
        if rest:
            self._hold(rest)

    def finish(self) -> Iterator[Event]:
        """Yield the event of a last line without an end, unless it is only half an event.

        An agent that fails while it streams adds its error object without an end.
        """
        try:
            event = _parse_line(self._join(b""))
        except ProtocolError:
            return
        if event is not None:
            yield event

    def _join(self, last: bytes) -> bytes:
        self._hold(last)
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._held_bytes = 0
        return line

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes > self._max_event_bytes:
            raise ProtocolError(f"one event of the stream has more than {self._max_event_bytes:,} bytes")
        self._pieces.append(piece)


def _parse_line(line: bytes) -> Event | None:
    """Read one line of a stream.

    Returns:
        The event, or None for a blank line, a comment, or a field other than ``data``.

    Raises:
        ProtocolError: it begins as an object and is not one.
    """
    line = line.strip()
    if not line:
        return None
    if line.startswith(_DATA_FIELD):
        line = line[len(_DATA_FIELD) :].lstrip()
    if not line.startswith(b"{"):
        return None
    try:
        return _read_event(read_json(line, errors="replace"))
    except ValueError as exc:
        shown = line[:_SHOWN_BYTES].decode("utf-8", "replace")
        raise ProtocolError(f"the agent sent an event that is not JSON: {shown!r}") from exc


def _read_event(body: dict[str, Any]) -> Event:
    kind, error = _text(body.get("type")), body.get("error")
    if not kind and ("code" in body or "message" in body):
        return Event("", error=EventError(_text(body.get("code")), _text(body.get("message"))))
    return Event(
        type=kind,
        text=_text(body.get("text")),
        error=_read_error(error) if isinstance(error, dict) else None,
    )


def _read_error(body: dict[str, Any]) -> EventError:
    # Agents before 1.0.12 send null for an empty traceback.
    lines = body.get("traceback")
    traceback = tuple(map(_text, lines)) if isinstance(lines, list) else ()
    return EventError(_text(body.get("ename")), _text(body.get("evalue")), traceback)


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
