"""Uploads: each file of a multipart form is paired with its metadata by position and written straight to its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from . import http, paths
from .http import BadBodyError, JsonObject, RefusedError, Request, Response
from .paths import Permission

CHUNK_BYTES = 262_144
_METADATA, _FILE = "metadata", "file"


class BrokenFormError(ValueError):
    """A body that is not a complete multipart form."""


class Piece(NamedTuple):
    """A piece of a part of a form."""

    name: str
    """Of the part."""
    data: bytes = b""
    is_first: bool = False
    """Whether the part begins with it; it is empty then."""
    is_last: bool = False
    """Whether the part ends with it; it is empty then."""


def upload(request: Request) -> Response:
    """Answer ``POST /files/upload``.

    The body is read twice: first for the metadata and the number of files, so that nothing is written when they do
    not pair, then for the files. These are written in order; one that fails leaves those before it.

    Raises:
        RefusedError: 400 for a form or metadata that make no sense.
        OSError: a file cannot be written.
    """
    content_type = request.environ.get("CONTENT_TYPE", "")
    try:
        metadata = _read_metadata(read_form(request.input, content_type))
    except BrokenFormError as exc:
        raise RefusedError(400, "INVALID_FILE", f"no multipart form: {exc}") from exc
    request.input.seek(0)
    with http.missing_file_fails():
        _write_files(read_form(request.input, content_type), metadata)
    return Response()


def read_form(stream: BinaryIO, content_type: str) -> Iterator[Piece]:
    """Yield the parts of a form piece by piece; those without a file name are fields to ExecD, and skipped.

    Args:
        stream: the body; read to its end.
        content_type: the header, with the boundary.

    Raises:
        BrokenFormError: no boundary, something between the parts, or no end.
    """
    from python_multipart.exceptions import FormParserError  # only uploads need the library
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise BrokenFormError(content_type)
    listener = _PartListener(parse_options_header)
    try:
        parser = MultipartParser(options[b"boundary"], listener.callbacks())
        while chunk := stream.read(CHUNK_BYTES):
            parser.write(chunk)
            yield from listener.take()
    except FormParserError as exc:
        raise BrokenFormError(str(exc)) from exc
    if not listener.is_complete:
        raise BrokenFormError("the end of the form is missing")


class _PartListener:
    """Collects what the parser finds, for as long as one chunk is parsed."""

    def __init__(self, parse_options_header: Any) -> None:
        self.is_complete = False
        self._parse_options_header = parse_options_header
        self._pieces: list[Piece] = []
        self._header = [b"", b""]
        self._name = self._file_name = ""

    def callbacks(self) -> Any:
        """Return the functions that the parser calls, by its names for them."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._grow(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": lambda: self._add(is_first=True),
            "on_part_data": lambda data, start, end: self._add(data[start:end]),
            "on_part_end": lambda: self._add(is_last=True),
            "on_end": self._end,
        }

    def take(self) -> list[Piece]:
        """Return the pieces that came since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _part_begin(self) -> None:
        self._name = self._file_name = ""

    def _grow(self, index: int, data: bytes) -> None:
        self._header[index] += data

    def _header_end(self) -> None:
        field, value = self._header
        self._header = [b"", b""]
        if field.lower() == b"content-disposition":
            _, options = self._parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._file_name = options.get(b"filename", b"").decode("utf-8", "replace")

    def _add(self, data: bytes = b"", *, is_first: bool = False, is_last: bool = False) -> None:
        if self._file_name:
            self._pieces.append(Piece(self._name, data, is_first, is_last))

    def _end(self) -> None:
        self.is_complete = True


def _read_metadata(pieces: Iterator[Piece]) -> list[bytearray]:
    """Return the metadata of every file; refuse files and metadata that do not pair."""
    metadata: list[bytearray] = []
    files = 0
    for piece in pieces:
        files += piece.name == _FILE and piece.is_first
        if piece.name == _METADATA:
            metadata += [bytearray()] if piece.is_first else []
            metadata[-1] += piece.data
    if not metadata:
        raise RefusedError(400, "INVALID_FILE_METADATA", "metadata file is missing")
    if not files:
        raise RefusedError(400, "INVALID_FILE_CONTENT", "file is missing")
    if files != len(metadata):
        raise RefusedError(400, "INVALID_FILE", f"{len(metadata)} metadata for {files} files")
    return metadata


def _write_files(pieces: Iterator[Piece], metadata: list[bytearray]) -> None:
    waiting = iter(metadata)
    for first in pieces:
        if first.name == _FILE:
            path, permission = _read_target(bytes(next(waiting)))
            _write_file(path, pieces)
            permission.apply(path)


def _write_file(path: str, pieces: Iterator[Piece]) -> None:
    """Write the pieces of a part up to its last one."""
    try:
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o777)) as file:
            for piece in pieces:
                if piece.is_last:
                    return
                file.write(piece.data)
    except OSError as exc:
        exc.filename = path  # the system does not say it when it refuses a write
        raise


def _read_target(metadata: bytes) -> tuple[str, Permission]:
    """Return where a file goes and what it is to be, and make the directory for it."""
    try:
        value = http.parse(metadata)
        named, permission = JsonObject(value).text("path"), Permission.read(value)
    except BadBodyError as exc:
        raise RefusedError(400, "INVALID_FILE_METADATA", f"invalid metadata: {exc}") from exc
    if not named:
        raise RefusedError(400, "INVALID_FILE_METADATA", "metadata path is empty")
    path = paths.expand(named)
    paths.make_directory(os.path.dirname(path) or ".")
    return path, permission
