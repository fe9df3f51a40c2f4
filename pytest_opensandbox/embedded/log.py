"""What a sandbox prints, line by line with times, in a bounded space."""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timezone

_MAX_BYTES = 256 * 1024


class Log:
    """The last lines that a sandbox printed."""

    def __init__(self) -> None:
        self._lines: deque[tuple[datetime, bytes]] = deque()
        self._bytes = 0
        self._partial = b""
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Add a line of the server's own."""
        self.write(f"[server] {text}\n".encode())

    def write(self, data: bytes) -> None:
        """Add bytes as they arrive; a line counts from when it is complete or longer than the space."""
        with self._lock:
            *lines, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > _MAX_BYTES:
                lines.append(self._partial[-_MAX_BYTES:])
                self._partial = b""
            for line in lines:
                self._append(line)

    def text(self, *, tail: int, since: datetime | None = None) -> str:
        """Return the last lines, oldest first, each with the time when it came.

        Args:
            tail: how many at most.
            since: leave out what is older.
        """
        with self._lock:
            lines = [*self._lines, (datetime.now(timezone.utc), self._partial)] if self._partial else list(self._lines)
        chosen = [(when, line) for when, line in lines if since is None or when >= since][-tail:]
        return "".join(f"{stamp(when)} {line.decode(errors='replace')}\n" for when, line in chosen)

    def _append(self, line: bytes) -> None:
        self._lines.append((datetime.now(timezone.utc), line))
        self._bytes += len(line) + 1
        while self._bytes > _MAX_BYTES and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft()[1]) + 1


def stamp(when: datetime) -> str:
    """Return a time as the API writes it: RFC 3339, in UTC, with a Z."""
    return when.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
