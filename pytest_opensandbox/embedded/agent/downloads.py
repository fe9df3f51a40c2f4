"""Downloads: a whole file, a range of its bytes, or some of its lines."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from typing import BinaryIO
from urllib.parse import quote

from waitress.utilities import build_http_date, parse_http_date

from . import http, paths
from .http import BAD_BODY, RefusedError, Request, Response

CHUNK_BYTES = 262_144
_DIRECTORY_BYTES = 2**63 - 1
"""What ExecD claims for the length of a directory."""


class BadRangeError(ValueError):
    """A Range header that is not ``bytes=a-b``."""


def download(request: Request) -> Response:
    """Answer ``GET /files/download``; a directory gets ExecD's answer, which is broken.

    Raises:
        RefusedError: 400, no path, or lines and bytes at once.
        OSError: no such file, or it cannot be read.
    """
    path = paths.expand(request.required("path"))
    by_line = bool(request.query("offset") or request.query("limit"))
    wanted = request.header("Range")
    if by_line and wanted:
        raise RefusedError(400, BAD_BODY, "offset and limit count lines, and exclude a Range header")
    if stat.S_ISDIR(os.stat(path).st_mode) and not by_line:
        return _directory(path)
    file = open(path, "rb")  # noqa: SIM115 - closed by the body that is sent
    if by_line:
        return _some_lines(request, file)
    if not wanted and (unchanged := _unless_changed(request, path, file)):
        file.close()
        return unchanged
    return _bytes(path, file, wanted)


def _unless_changed(request: Request, path: str, file: BinaryIO) -> Response | None:
    """Return the response to a client that wants the file only if it has changed, or only if it has not."""
    changed = int(os.fstat(file.fileno()).st_mtime)
    since, until = (parse_http_date(request.header(f"If-{name}-Since")) for name in ("Modified", "Unmodified"))
    headers = {"Content-Disposition": _disposition(path), "Last-Modified": build_http_date(changed)}
    if request.header("If-Match") not in ("", "*") or (not request.header("If-Match") and until and changed > until):
        return Response(b"", 412, headers)
    # No file has a tag, so that only * can match one.
    tags = request.header("If-None-Match")
    if tags.strip() == "*" or (not tags and since and changed <= since):
        return Response(b"", 304, headers)
    return None


def _bytes(path: str, file: BinaryIO, wanted: str) -> Response:
    status = os.fstat(file.fileno())
    headers = {"Content-Type": "application/octet-stream", "Content-Disposition": _disposition(path)}
    if not wanted:
        headers |= {
            "Accept-Ranges": "bytes",
            "Content-Length": str(status.st_size),
            "Last-Modified": build_http_date(status.st_mtime),
        }
        return Response(_between(file, 0, status.st_size), 200, headers)
    try:
        span = first_range(wanted, status.st_size)
    except BadRangeError:
        file.close()
        return Response(RefusedError(416, "UNKNOWN").body(), 416, headers)
    if span is None:
        file.close()
        headers |= {"Content-Type": http.TEXT_TYPE, "Content-Range": f"bytes */{status.st_size}"}
        return Response(b"invalid range: failed to overlap\n", 416, headers)
    start, end = span
    headers |= {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{status.st_size}"}
    return Response(_between(file, start, end), 206, headers)


def first_range(header: str, size: int) -> tuple[int, int] | None:
    """Return start and end of the first range of a header that lies within a file; the end is exclusive.

    Args:
        header: ``bytes=2-5``, ``bytes=2-``, ``bytes=-5``, or several of them.
        size: of the file, in bytes.

    Returns:
        None when every range begins past the end of the file.

    Raises:
        BadRangeError: no such header.
    """
    if not header.startswith("bytes="):
        raise BadRangeError(header)
    spans = [_span(text.strip(), size) for text in header.removeprefix("bytes=").split(",") if text.strip()]
    return next((span for span in spans if span[0] < size), None)


def _span(text: str, size: int) -> tuple[int, int]:
    first, dash, last = (part.strip() for part in text.partition("-"))
    numbers = [part for part in (first, last) if part]
    if not dash or not numbers or not all(part.isascii() and part.isdigit() for part in numbers):
        raise BadRangeError(text)
    if not first:
        return size - min(int(last), size), size
    if last and int(last) < int(first):
        raise BadRangeError(text)
    return int(first), min(int(last) + 1, size) if last else size


def _some_lines(request: Request, file: BinaryIO) -> Response:
    """Return lines by number, counted from 1, without carriage returns and without the final line break."""
    try:
        offset, limit = request.integer("offset", at_least=1) or 1, request.integer("limit", at_least=1)
    except RefusedError:
        file.close()
        raise
    pieces = _joined(file, offset, limit)
    first, second = next(pieces, b""), next(pieces, None)
    body = first if second is None else chain([first, second], pieces)
    return Response(body, 200, {"Content-Type": http.TEXT_TYPE})


def _joined(file: BinaryIO, offset: int, limit: int | None) -> Iterator[bytes]:
    """Yield the wanted lines in pieces of a good size."""
    end = None if limit is None else offset - 1 + limit
    piece = bytearray()
    with closing(file):
        for number, line in enumerate(islice(file, offset - 1, end)):
            piece += (b"\n" if number else b"") + line.rstrip(b"\r\n")
            if len(piece) >= CHUNK_BYTES:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece)


def _between(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    with closing(file):
        file.seek(start)
        while start < end:
            data = file.read(min(CHUNK_BYTES, end - start))
            if not data:
                return
            start += len(data)
            yield data


def _disposition(path: str) -> str:
    name = os.path.basename(path)
    if name.isascii() and name.isprintable():
        return f'attachment; filename="{name}"'
    encoded = quote(name, safe="$&+,:;=@", errors="surrogateescape")
    return f"attachment; filename=\"{encoded}\"; filename*=UTF-8''{encoded}"


def _directory(path: str) -> Response:
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": _disposition(path),
        "Content-Length": str(_DIRECTORY_BYTES),
    }
    return Response(b"", 500, headers)
