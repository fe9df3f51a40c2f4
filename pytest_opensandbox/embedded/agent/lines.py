"""Output cut into lines, the way that ExecD cuts it: bytes in as they come, whole lines out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

CHUNK_BYTES = 32_768


class Splitter:
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


class Tail:
    """Reads a file that a command is still writing.

    Args:
        file: opened for reading; its position is left alone, because the command may share it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self._splitter = Splitter()

    def lines(self) -> Iterator[list[bytes]]:
        """Yield batches of the lines that were finished since the last time; never more than is there now."""
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
