"""Multipart forms read as a stream: each part with a file name is handed on piece by piece as it comes."""

from __future__ import annotations

from typing import Any, BinaryIO, Protocol

CHUNK_BYTES = 262_144


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
