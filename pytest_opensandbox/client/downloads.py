"""A file on its way out of a sandbox, in pieces, counted against what was promised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from pytest_opensandbox.errors import ProtocolError
from pytest_opensandbox.transport.response import Answer

PATIENCE_SECONDS = 60.0
"""How long a download may be slower than the slowest that there is."""
SLOWEST_BYTES_A_SECOND = 64 * 1024
"""What is slower than this drips, so that nobody waits for its end; half a megabit a second."""


def transfer_seconds(size: int) -> float:
    """Return how long so many bytes may take, either way; seconds."""
    return PATIENCE_SECONDS + size / SLOWEST_BYTES_A_SECOND


class Download:
    """An open download; iterate over it once, and close it or use it as a context manager.

    Args:
        path: of the file, for messages.
        answer: the agent's answer, unread.
        size: bytes that must come, -1 where nobody knows.
        most: bytes that were asked for, None for all that there are.

    Raises:
        ProtocolError: more is promised than was asked for.
    """

    def __init__(self, path: str, answer: Answer, *, size: int, most: int | None = None) -> None:
        if most is not None and size > most:
            answer.close()
            raise ProtocolError(f"{path}: {most:,} bytes were asked for, {size:,} are promised")
        self.path = path
        """Path inside the sandbox."""
        self.size = size
        """How long the file, or the part asked for, is; bytes, -1 where the agent does not say."""
        self._answer = answer
        self._most = size if size >= 0 else most

    def __iter__(self) -> Iterator[bytes]:
        """Yield the content in pieces of at most 64 KiB.

        Raises:
            ProtocolError: more or fewer bytes came than were promised, or so slowly that they may never end.
            TransportError: the connection broke.
        """
        received = 0
        for piece, waited in _timed(self._answer.chunks()):
            received += len(piece)
            if waited > transfer_seconds(received):
                raise ProtocolError(f"{self.path}: it comes too slowly, {received:,} bytes in {waited:.0f} s")
            if self._most is not None and received > self._most:
                raise ProtocolError(f"{self.path}: {self._most:,} bytes were promised, {received:,} or more came")
            yield piece
        if self._answer.has_more:
            raise ProtocolError(
                f"{self.path}: {received:,} bytes were promised, and more came: they may not be the file's"
            )
        if received < self.size:
            raise ProtocolError(f"{self.path}: {self.size:,} bytes were promised, {received:,} came")

    def read(self) -> bytes:
        """Return the whole content and close.

        Raises:
            ProtocolError: more or fewer bytes came than were promised.
            TransportError: the connection broke.
        """
        with self:
            return b"".join(self)

    def close(self) -> None:
        """Let go of the connection, also in the middle of the file."""
        self._answer.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _timed(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, float]]:
    """Yield each piece with the seconds that were spent on waiting so far; what is done with the pieces is not."""
    waited = 0.0
    began = time.monotonic()
    for piece in pieces:
        waited += time.monotonic() - began
        yield piece, waited
        began = time.monotonic()
