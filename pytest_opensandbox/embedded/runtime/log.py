"""What a sandbox prints, kept as it comes in a bounded space; times and lines are worked out when somebody reads it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timezone

_MAX_BYTES = 256 * 1024
# What comes in more pieces than this takes more room than its bytes.
_MAX_PIECES = 8192


class Log:
    """The last lines that a sandbox printed."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[datetime, bytes]] = deque()
        self._bytes = 0
        self._begins_in_a_line = False
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Add a line of the server's own."""
        self.write(f"[server] {text}\n".encode())

    def write(self, data: bytes) -> None:
        """Add bytes as they arrive, and drop the oldest beyond the space."""
        with self._lock:
            self._pieces.append((datetime.now(timezone.utc), data))
            self._bytes += len(data)
            while len(self._pieces) > _MAX_PIECES or self._bytes - len(self._pieces[0][1]) >= _MAX_BYTES:
                _, dropped = self._pieces.popleft()
                self._bytes -= len(dropped)
                self._begins_in_a_line = not dropped.endswith(b"\n")

    def text(self, *, tail: int, since: datetime | None = None) -> str:
        """Return the last lines, oldest first, each with the time when it was complete.

        Args:
            tail: how many at most.
            since: leave out what is older.
        """
        with self._lock:
            lines = list(_lines(list(self._pieces)))
            if self._begins_in_a_line:
                lines[:-1] = lines[1:-1]
        chosen = [(when, line) for when, line in lines if since is None or when >= since][-tail:]
        return "".join(f"{stamp(when)} {line.decode(errors='replace')}\n" for when, line in chosen)


def stamp(when: datetime) -> str:
    """Return a time as the API writes it: RFC 3339, in UTC, with a Z."""
    return when.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _lines(pieces: list[tuple[datetime, bytes]]) -> Iterator[tuple[datetime, bytes]]:
    """Yield the lines of what came in pieces, the last one also where it is not complete."""
    begun: list[bytes] = []
    for when, piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield when, b"".join(begun)
            begun = [other]
    if rest := b"".join(begun):
        yield pieces[-1][0], rest
