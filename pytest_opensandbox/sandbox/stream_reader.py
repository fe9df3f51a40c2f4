"""One stream of a command, as its pieces arrive: its beginning and its end, and its lines for a callback."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_opensandbox.client.command_run import Callback, HeadTailBuffer

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line that a callback gets as one."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class LineSplitter:
    r"""Cuts a stream into lines for a callback; ``\n``, ``\r`` and ``\r\n`` end one.

    A line of more than ``MAX_LINE_BYTES`` is passed on in parts.

    Args:
        callback: called with each line, without its end; bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_after_return = False

    def feed(self, piece: bytes) -> None:
        """Pass on the lines that end in a piece, which is not empty."""
        if self._is_after_return:
            piece = piece.removeprefix(b"\n")
        self._is_after_return = piece.endswith(b"\r") or (self._is_after_return and not piece)
        *ended, rest = _LINE_END.split(piece)
        for line in ended:
            self._hold(line)
            self._pass_on()
        if rest:
            self._hold(rest)
        if self._held_bytes > MAX_LINE_BYTES:
            self._pass_on()

    def finish(self) -> None:
        """Pass on the last line, if it has no end."""
        if self._held:
            self._pass_on()

    def _hold(self, part: bytes) -> None:
        self._held.append(part)
        self._held_bytes += len(part)

    def _pass_on(self) -> None:
        line = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._callback(line.decode("utf-8", "replace"))


class StreamReader:
    """One stream: its beginning and its end, and its lines for a callback.

    Args:
        max_bytes: most that is kept; bytes.
        callback: called with each line.
    """

    def __init__(self, max_bytes: int, callback: Callback | None) -> None:
        self.received = 0
        """How much has arrived; bytes."""
        self.file_bytes = 0
        """How much lies in a file that was not read yet; bytes."""
        self._buffer = HeadTailBuffer(max_bytes)
        self._behind_file = HeadTailBuffer(max_bytes)
        self._lines = None if callback is None else LineSplitter(callback)

    def content(self) -> bytes:
        """Return what was kept."""
        return self._buffer.content()

    def text(self) -> str:
        """Return what was kept as text; bytes that are not UTF-8 become U+FFFD."""
        return self._buffer.text()

    def add(self, piece: bytes) -> None:
        """Add to the end."""
        self.received += len(piece)
        (self._behind_file if self.file_bytes else self._buffer).write(piece)
        if self._lines is not None and piece:
            self._lines.feed(piece)

    def expect_file(self, size: int) -> None:
        """Leave space for so many bytes that lie in a file; what is added from now on comes behind them."""
        self.file_bytes = size

    def add_file(self, pieces: Iterable[bytes]) -> None:
        """Add what lies in the file; of one that is longer than was reported, a little more than that."""
        left = self.file_bytes
        self.file_bytes = 0
        for piece in pieces:
            self.add(piece)
            left -= len(piece)
            if left < 0:
                break
        self._buffer.write(self._behind_file.content())

    def finish(self) -> None:
        """Pass on the last line, if it has no end."""
        if self._lines is not None:
            self._lines.finish()
