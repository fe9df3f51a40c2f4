"""Uploads and downloads of file contents, and the paths and ranges in requests for files."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pytest_opensandbox.client.models import FileUpload, check_path
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ConfigError, ProtocolError
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, Timeouts

CHUNK_BYTES = 256 * 1024
_PARTLY_SENT = "; part of the upload was sent, look at its files in the sandbox"

_QUERY_CHARACTERS = 4_000


class UploadBody:
    """A multipart form that is read from its files while it is sent, and knows its length before.

    It has two parts for each file, its metadata and its content; iterating yields the bytes to send.

    ``requests-toolbelt``, the library for this, saw its last release in May 2023, sends more than its own
    Content-Length where a file grows meanwhile, and took 0.24 s for 100 MB that this class sends in 0.05 s
    (2026-11-23, loopback).

    Args:
        files: what to send, in this order.

    Raises:
        ConfigError: a file cannot be read, or a mode cannot be sent.
    """

    def __init__(self, files: Sequence[FileUpload]) -> None:
        self.boundary = secrets.token_hex(16)
        """Separates the parts; not guessable, so that no content can hold it."""
        self.sizes = {file.path: content_size(file) for file in files}
        """Bytes of each file, by its path."""
        self._parts = [(self._head(file), file, content_size(file)) for file in files]
        self._end = f"--{self.boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        """Value of the header ``Content-Type``."""
        return f"multipart/form-data; boundary={self.boundary}"

    def __len__(self) -> int:
        return sum(len(head) + size + len(b"\r\n") for head, _, size in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for head, file, size in self._parts:
            yield head
            yield from _content(file, size)
            yield b"\r\n"
        yield self._end

    def _head(self, file: FileUpload) -> bytes:
        metadata = json.dumps({"path": file.path, "mode": wire_mode(file.mode)})
        # Without a filename in both parts the agent does not see them.
        return (
            f"--{self.boundary}\r\n"
            'Content-Disposition: form-data; name="metadata"; filename="metadata"\r\n'
            f"Content-Type: application/json\r\n\r\n{metadata}\r\n"
            f"--{self.boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="file"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()


def wire_mode(mode: int) -> int:
    """Return permission bits as the agent reads them: a number whose decimal digits are octal, 755 for 0o755.

    Raises:
        ConfigError: 0, which the agent takes for "leave it as it is".
    """
    if mode == 0:
        raise ConfigError("mode", "not be 0, which the agent does not set; use chmod in a command", mode)
    return int(f"{mode:o}")


def content_size(file: FileUpload) -> int:
    """Return how many bytes a file's content has; of an open file what lies behind its position.

    Raises:
        ConfigError: no such file, or one without a length.
    """
    content = file.content
    if isinstance(content, (bytes, bytearray, memoryview)):
        return len(content)
    try:
        if isinstance(content, Path):
            return _file_size(content)
        here = content.tell()
        size = content.seek(0, 2) - here
        content.seek(here)
    except (OSError, ValueError) as exc:
        raise _unreadable(content, exc) from exc
    return max(size, 0)


def _file_size(path: Path) -> int:
    status = path.stat()
    # Opening a FIFO would wait for its writer, a device may never end.
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("content", "be a file, it is a directory, a device, a socket or a FIFO", path)
    return status.st_size


def _content(file: FileUpload, size: int) -> Iterator[bytes]:
    """Yield exactly ``size`` bytes, because that is what was promised."""
    with _open(file) as source:
        left = size
        while left > 0:
            try:
                piece = source.read(min(left, CHUNK_BYTES))
            except (OSError, ValueError) as exc:
                raise _unreadable(file.content, exc, _PARTLY_SENT) from exc
            if not piece:
                rule = f"not shrink while it is sent ({left:,} bytes are missing{_PARTLY_SENT})"
                raise ConfigError("content", rule, file.path)
            left -= len(piece)
            yield piece


class _OpenFile:
    """A file that its owner closes; leaving the block restores its position, so that a second try reads it whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()

    def __enter__(self) -> BinaryIO:
        return self._file

    def __exit__(self, *exc_info: object) -> None:
        self._file.seek(self._start)


def _open(file: FileUpload) -> BinaryIO | _OpenFile:
    content = file.content
    if isinstance(content, (bytes, bytearray, memoryview)):
        return BytesIO(content)
    if not isinstance(content, Path):
        return _OpenFile(content)
    try:
        return content.open("rb")
    except OSError as exc:
        raise _unreadable(content, exc, _PARTLY_SENT) from exc


def _unreadable(content: object, error: OSError | ValueError, consequence: str = "") -> ConfigError:
    """Return the error with the file's name, which what ``read`` raises does not have."""
    if isinstance(error, ConfigError):
        return error
    why = getattr(error, "strerror", None) or str(error)
    named = content if isinstance(content, Path) else getattr(content, "name", content)
    return ConfigError("content", f"be a file that can be read ({why}{consequence})", named)


class Download:
    """An open download; iterate over it once, and close it or use it as a context manager.

    Args:
        path: of the file, for messages.
        answer: the agent's answer, unread.
        size: bytes that must come, -1 where the length is not known.
        most: bytes that were asked for, None for all that there are.
        timeouts: how slowly the bytes may come.

    Raises:
        ProtocolError: more is promised than was asked for.
    """

    def __init__(
        self,
        path: str,
        answer: Response,
        *,
        size: int,
        most: int | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        if most is not None and size > most:
            answer.close()
            raise ProtocolError(f"{path}: {most:,} bytes were asked for, {size:,} are promised")
        self.path = path
        """Path inside the sandbox."""
        self.size = size
        """How long the file, or the part asked for, is; bytes, -1 where the agent does not say."""
        self._answer = answer
        self._timeouts = timeouts
        self._most = size if size >= 0 else most

    def __iter__(self) -> Iterator[bytes]:
        """Yield the content in pieces of at most 64 KiB.

        Raises:
            ProtocolError: more or fewer bytes came than were promised, or so slowly that they may never end.
            TransportError: the connection broke.
        """
        received = 0
        for piece, waited in _with_waits(self._answer.chunks()):
            received += len(piece)
            if waited > self._timeouts.for_transfer(received):
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
        """Close the connection, also in the middle of the file."""
        self._answer.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _with_waits(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, float]]:
    """Yield each piece with the seconds spent on waiting so far, without the time that the caller takes."""
    waited = 0.0
    began = monotonic()
    for piece in pieces:
        waited += monotonic() - began
        yield piece, waited
        began = monotonic()


def check_agent_path(path: str) -> str:
    """Return a path that the agent takes as it is.

    Raises:
        ConfigError: not absolute, or the agent would expand something in it.
    """
    if "$" in check_path(path):
        raise ConfigError("path", "hold no '$', which the agent would expand; use a command for this file", path)
    return path


def path_queries(paths: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the paths as queries of a length that servers accept."""
    query: list[tuple[str, str]] = []
    length = 0
    for path in dict.fromkeys(map(check_agent_path, paths)):
        # Every byte may take three characters.
        cost = 3 * len(path.encode()) + len("&path=")
        if query and length + cost > _QUERY_CHARACTERS:
            yield query
            query, length = [], 0
        query.append(("path", path))
        length += cost
    if query:
        yield query


def range_header(byte_range: Sequence[int | None] | None) -> dict[str, str]:
    """Return the header that asks for a part of a file: its first byte, and the byte to stop before or None.

    Raises:
        ConfigError: not such a part.
    """
    if byte_range is None:
        return {}
    start, stop = byte_range
    if start is None or start < 0 or (stop is not None and stop <= start):
        raise ConfigError("byte_range", "be (start, stop) with 0 <= start < stop, or (start, None)", byte_range)
    return {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}


def range_length(byte_range: Sequence[int | None] | None) -> int | None:
    """Return how many bytes a range can have, None where it has no end."""
    start, stop = byte_range or (None, None)
    return None if start is None or stop is None else stop - start


def check_mode(mode: int | None) -> None:
    """Refuse a mode that is not a number; its range is checked where it is sent.

    Raises:
        ConfigError: no whole number; None is allowed.
    """
    if mode is not None and not isinstance(mode, int):
        raise ConfigError("mode", "be permission bits, 0 to 0o777, such as 0o755", mode)


def check_local_path(field: str, path: str | os.PathLike[str]) -> None:
    """Refuse a value that cannot be the path of a local file.

    Args:
        field: what the caller calls it, for the message.
        path: as text or a path object.

    Raises:
        ConfigError: something else, or a name that no file can have.
    """
    try:
        if isinstance(path, (str, os.PathLike)) and b"\0" not in os.fsencode(path):
            return
    except UnicodeEncodeError:
        pass
    raise ConfigError(field, "be a local path, as text or a path object", path)
