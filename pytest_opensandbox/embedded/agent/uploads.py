"""Uploads: each file of a form is paired with its metadata by position and written straight to its place."""

from __future__ import annotations

import os
from typing import BinaryIO

from bottle import HTTPResponse

from . import answers, paths
from .answers import RefusedError, failure
from .calls import BadBodyError, Call, Fields, parse
from .entries import EntryError, Permission, make_folders
from .forms import BrokenFormError, read_form

_METADATA, _FILE = "metadata", "file"


def upload(call: Call) -> HTTPResponse:
    """Answer ``POST /files/upload``.

    The body is read twice: first for the metadata and the number of files, so that nothing is written when they do
    not pair, then for the files. These are written in order; one that fails leaves those before it.

    Raises:
        RefusedError: 400 for a form or metadata that make no sense, 500 for a file that cannot be written.
    """
    content_type = call.environ.get("CONTENT_TYPE", "")
    inventory = _Inventory()
    try:
        read_form(call.input, content_type, inventory)
    except BrokenFormError as exc:
        raise RefusedError(400, "INVALID_FILE", "multipart form is empty") from exc
    inventory.check()
    call.input.seek(0)
    writer = _Writer(inventory.metadata)
    try:
        read_form(call.input, content_type, writer)
    finally:
        writer.close()
    return answers.done()


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
