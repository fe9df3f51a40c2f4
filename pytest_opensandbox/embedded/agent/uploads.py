"""Uploads: each file of a multipart form is paired with its metadata by position and written straight to its place."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, Protocol

from . import http, paths
from .http import BadBodyError, Fields, RefusedError, Request, Response, failure, parse
from .paths import EntryError, Permission, make_folders

CHUNK_BYTES = 262_144
_METADATA, _FILE = "metadata", "file"


class BrokenFormError(ValueError):
    """A body that is not a complete multipart form."""


class Reader(Protocol):
    """What takes the parts."""

    def begin(self, name: str) -> None:
        """A part of that name begins."""

    def data(self, piece: memoryview) -> None:
        """A piece of the part that began last; the memory is used again afterwards."""

    def end(self) -> None:
        """That part is complete."""


def read_form(stream: BinaryIO, content_type: str, reader: Reader) -> None:
    """Hand the parts of a form to a reader; those without a file name are form fields to ExecD, and skipped.

    Args:
        stream: the body; read to its end.
        content_type: the header, with the boundary.
        reader: what takes the parts; what it raises comes out of here.

    Raises:
        BrokenFormError: no boundary, something between the parts, or no end.
    """
    from python_multipart.exceptions import FormParserError  # only uploads need the library
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise BrokenFormError(content_type)
    sieve = _Sieve(reader)
    try:
        parser = MultipartParser(options[b"boundary"], sieve.callbacks())
        while chunk := stream.read(CHUNK_BYTES):
            parser.write(chunk)
    except FormParserError as exc:
        raise BrokenFormError(str(exc)) from exc
    if not sieve.is_complete:
        raise BrokenFormError("the end of the form is missing")


class _Sieve:
    """Listens to the parser and lets through what has a file name."""

    def __init__(self, reader: Reader) -> None:
        self.is_complete = False
        self._reader = reader
        self._header = [b"", b""]
        self._name = self._file_name = ""

    def callbacks(self) -> Any:
        """Return what the parser wants to be given."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._grow(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._name = self._file_name = ""

    def _grow(self, index: int, data: bytes) -> None:
        self._header[index] += data

    def _header_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        field, value = self._header
        self._header = [b"", b""]
        if field.lower() == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._file_name = options.get(b"filename", b"").decode("utf-8", "replace")

    def _headers_end(self) -> None:
        if self._file_name:
            self._reader.begin(self._name)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file_name:
            self._reader.data(memoryview(data)[start:end])

    def _part_end(self) -> None:
        if self._file_name:
            self._reader.end()

    def _end(self) -> None:
        self.is_complete = True


def upload(request: Request) -> Response:
    """Answer ``POST /files/upload``.

    The body is read twice: first for the metadata and the number of files, so that nothing is written when they do
    not pair, then for the files. These are written in order; one that fails leaves those before it.

    Raises:
        RefusedError: 400 for a form or metadata that make no sense, 500 for a file that cannot be written.
    """
    content_type = request.environ.get("CONTENT_TYPE", "")
    inventory = _Inventory()
    try:
        read_form(request.input, content_type, inventory)
    except BrokenFormError as exc:
        raise RefusedError(400, "INVALID_FILE", "multipart form is empty") from exc
    inventory.check()
    request.input.seek(0)
    writer = _Writer(inventory.metadata)
    try:
        read_form(request.input, content_type, writer)
    finally:
        writer.close()
    return http.done()


class _Inventory:
    """Collects the metadata and counts the files."""

    def __init__(self) -> None:
        self.metadata: list[bytearray] = []
        self._files = 0
        self._name = ""

    def begin(self, name: str) -> None:
        self._name = name
        self._files += name == _FILE
        if name == _METADATA:
            self.metadata.append(bytearray())

    def data(self, piece: memoryview) -> None:
        if self._name == _METADATA:
            self.metadata[-1] += piece

    def end(self) -> None:
        self._name = ""

    def check(self) -> None:
        """Refuse files and metadata that do not pair."""
        if not self.metadata:
            raise RefusedError(400, "INVALID_FILE_METADATA", "metadata file is missing")
        if not self._files:
            raise RefusedError(400, "INVALID_FILE_CONTENT", "file is missing")
        if self._files != len(self.metadata):
            text = f"metadata and file count mismatch: {len(self.metadata)} vs {self._files}"
            raise RefusedError(400, "INVALID_FILE", text)


class _Writer:
    """Writes the files.

    Args:
        metadata: one JSON object a file.
    """

    def __init__(self, metadata: list[bytearray]) -> None:
        self._metadata = iter(metadata)
        self._path = ""
        self._permission = Permission()
        self._file: BinaryIO | None = None

    def begin(self, name: str) -> None:
        if name == _FILE:
            self._path, self._permission = _target(bytes(next(self._metadata)))
            self._file = _create(self._path)

    def data(self, piece: memoryview) -> None:
        if self._file is not None:
            try:
                self._file.write(piece)
            except OSError as exc:
                text = f"error copying file {self._path}. {failure('write', exc, self._path)}"
                raise RefusedError(500, "RUNTIME_ERROR", text) from exc

    def end(self) -> None:
        if self._file is None:
            return
        self.close()
        try:
            self._permission.apply(self._path)
        except EntryError as exc:
            raise RefusedError(500, "RUNTIME_ERROR", f"error chmoding file {self._path}. {exc}") from exc

    def close(self) -> None:
        """Close the file that is being written, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _target(metadata: bytes) -> tuple[str, Permission]:
    """Return where a file goes and what it is to be, and make the directory for it."""
    try:
        value = parse(metadata)
        named = Fields(value, "FileMetadata").text("path")
        permission = Permission.read(Fields(value, "FileMetadata.Permission"))
    except BadBodyError as exc:
        text = "unexpected end of JSON input" if str(exc).endswith("EOF") else str(exc)
        raise RefusedError(400, "INVALID_FILE_METADATA", f"invalid metadata format. {text}") from exc
    if not named:
        raise RefusedError(400, "INVALID_FILE_METADATA", "metadata path is empty")
    try:
        path = paths.expand(named)
    except paths.UnusablePathError as exc:
        raise RefusedError(500, "RUNTIME_ERROR", f"error resolving target path {named}. {exc}") from exc
    folder = os.path.dirname(path) or "."
    try:
        make_folders(folder)
    except EntryError as exc:
        raise RefusedError(500, "RUNTIME_ERROR", f"error creating target directory {folder}. {exc}") from exc
    return path, permission


def _create(path: str) -> BinaryIO:
    try:
        return open(path, "wb", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o777))
    except OSError as exc:
        text = f"error opening destination file {path}. {failure('open', exc)}"
        raise RefusedError(500, "RUNTIME_ERROR", text) from exc
