"""Output of a command as it comes in, kept within bounds."""

from __future__ import annotations

from collections.abc import Callable

Callback = Callable[[str], None]


class HeadTailBuffer:
    """Keeps the beginning and the end of a stream, and never much more than ``max_bytes`` of it.

    Args:
        max_bytes: most that is kept; bytes, > 0.
    """

    def __init__(self, max_bytes: int) -> None:
        self._tail_bytes = max_bytes // 2
        self._head_bytes = max_bytes - self._tail_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._written = 0

    @property
    def truncated(self) -> bool:
        """Whether something was left out."""
        return self._written > self._head_bytes + self._tail_bytes

    def write(self, data: bytes) -> None:
        """Add to the end."""
        self._written += len(data)
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_bytes:
            del self._tail[: len(self._tail) - self._tail_bytes]

    def content(self) -> bytes:
        """Return what was kept."""
        return bytes(self._head + self._tail[max(len(self._tail) - self._tail_bytes, 0) :])

    def text(self) -> str:
        """Return what was kept as text; bytes that are not UTF-8 become U+FFFD."""
        return self.content().decode("utf-8", "replace")


class Lines:
    """One stream of a command, put together from its lines.

    Args:
        max_bytes: most that is kept; bytes, > 0.
        callback: called with each line, without its end.
    """

    def __init__(self, max_bytes: int, callback: Callback | None) -> None:
        self.clip = HeadTailBuffer(max_bytes)
        """The stream, without the end of its last line, which the agent does not tell."""
        self.begun = False
        """Whether there was a line."""
        self._callback = callback

    def add(self, line: str) -> None:
        """Add one line as the agent tells it."""
        # An empty line is told as "\n", every other one without its end.
        line = "" if line == "\n" else line
        if self.begun:
            self.clip.write(b"\n")
        self.begun = True
        self.clip.write(line.encode("utf-8", "surrogatepass"))
        if self._callback is not None:
            self._callback(line)
