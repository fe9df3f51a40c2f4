"""The last lines that a sandbox printed, and the reader that takes them from a pipe."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timezone

from pytest_opensandbox.embedded.runtime.event_loop import BackgroundLoop

_MAX_BYTES = 256 * 1024
# The overhead of more pieces than this is larger than their bytes.
_MAX_PIECES = 8192
_READ_BYTES = 65536
# 5 MiB a second: a sandbox that writes without end takes about a hundredth of a processor here.
_BURST_BYTES = 256 * 1024
_REST_SECONDS = 0.05


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
        """Add bytes, and drop the oldest beyond the limit."""
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
            tail: number of lines, at most.
            since: leave out what is older.
        """
        with self._lock:
            lines = list(_lines(list(self._pieces)))
            if self._begins_in_a_line:
                lines[:-1] = lines[1:-1]
        chosen = [(when, line) for when, line in lines if since is None or when >= since][-tail:]
        return "".join(f"{format_time(when)} {line.decode(errors='replace')}\n" for when, line in chosen)


def format_time(when: datetime) -> str:
    """Return a time as the API writes it: RFC 3339, in UTC, with a Z."""
    return when.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _lines(pieces: list[tuple[datetime, bytes]]) -> Iterator[tuple[datetime, bytes]]:
    """Yield the lines in the pieces; the last one may be incomplete."""
    begun: list[bytes] = []
    for when, piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield when, b"".join(begun)
            begun = [other]
    if rest := b"".join(begun):
        yield pieces[-1][0], rest


class OutputReader:
    """Reads a sandbox's output into its log, in the background loop; a sandbox that writes faster waits.

    Args:
        descriptor: of a pipe; closed when the sandbox has ended.
        log: takes what comes.
        background: the loop.
    """

    def __init__(self, descriptor: int, log: Log, background: BackgroundLoop) -> None:
        self._descriptor = descriptor
        self._log = log
        self._background = background
        self._left_bytes = _BURST_BYTES
        self._rest: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to read."""
        os.set_blocking(self._descriptor, False)
        self._background.call(self._follow)

    def close(self) -> None:
        """Read the rest, and close the pipe."""
        self._stop()
        while self._read():
            pass
        os.close(self._descriptor)

    def _follow(self) -> None:
        self._rest = None
        self._left_bytes = _BURST_BYTES
        self._background.loop.add_reader(self._descriptor, self._take)

    def _take(self) -> None:
        """Read once, and pause after a burst."""
        if self._read() == b"":
            self._stop()
        elif self._left_bytes <= 0:
            self._stop()
            self._rest = self._background.loop.call_later(_REST_SECONDS, self._follow)

    def _read(self) -> bytes | None:
        """Read once; return nothing at the end, and None where there is nothing yet."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        if data:
            self._log.write(data)
            self._left_bytes -= len(data)
        return data

    def _stop(self) -> None:
        self._background.loop.remove_reader(self._descriptor)
        if self._rest:
            self._rest.cancel()
