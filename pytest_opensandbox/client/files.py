"""The agent's operations on files and directories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from pytest_opensandbox.client.file_transfer import (
    Download,
    UploadBody,
    check_agent_path,
    path_queries,
    range_header,
    range_length,
    wire_mode,
)
from pytest_opensandbox.client.models import FileInfo, FileUpload, read_files
from pytest_opensandbox.errors import ApiError, ConfigError, NotFoundError, ProtocolError
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.failures import has_no_sandbox
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.retry import one_call, retry_idempotent, time_limit
from pytest_opensandbox.transport.transport import Query, Transport

T = TypeVar("T")

MAX_FOUND = 100_000
"""Most files that a search may find."""
MAX_SEARCH_BYTES = 32 * 1024 * 1024
"""Most that is read of the answer to a search."""

VALUES_PER_FILE = 9
"""How many values describe one file, itself among them."""

_NO_SUCH_FILE = ("no such file", "file not found")
# A directory is announced with the largest number there is, and then breaks off.
_NO_FILE_BYTES = 2**62


class FilesAPI:
    """The agent's operations on files; part of the client.

    Paths are absolute. One that holds ``$`` is refused, because the agent would expand ``$NAME`` in it.
    """

    _transport: Transport

    def upload_files(self, endpoint: Endpoint | str, files: Iterable[FileUpload], *, check_sizes: bool = True) -> None:
        """Write files; parents are made, what is there is overwritten, and the sizes are checked afterwards.

        The files are sent in pieces and in order; an error with one of them leaves those before it written.

        Args:
            endpoint: the agent.
            files: what to write, in one request.
            check_sizes: whether to ask for the sizes afterwards, which is a request of its own.

        Raises:
            ConfigError: a path or a mode cannot be used, and nothing was sent; or a local file cannot be read or
                shrinks, also in the middle of the upload, and the text says so.
            ApiError: the agent refuses, for example a path that is a directory.
            ProtocolError: a file is not as long as what was sent.
            TransportError: the connection broke; some files may be written.

        Source: specs/execd-api.yaml, POST /files/upload.
        """
        files = list(files)
        for file in files:
            check_agent_path(file.path)
        if not files:
            return
        body = UploadBody(files)
        headers = {"Content-Type": body.content_type}
        timeouts = self._transport.timeouts
        timeout = (timeouts.transfer_connect_seconds, timeouts.transfer_silence_seconds)

        def send() -> bytes:
            answer = self._transport.ask(endpoint, "POST", "/files/upload", body=body, headers=headers, timeout=timeout)
            return answer.read()

        with time_limit(timeouts.for_transfer(len(body))):
            # The same bytes in the same place, however often they are sent.
            retry_idempotent(send, timeouts=self._transport.timeouts)
            if check_sizes:
                self._check_sizes(endpoint, body.sizes)

    @one_call
    def download_file(
        self,
        endpoint: Endpoint | str,
        path: str,
        *,
        byte_range: tuple[int, int | None] | None = None,
        known_file: bool = False,
    ) -> Download:
        """Open a file for reading.

        Args:
            endpoint: the agent.
            path: absolute path of a file, links are followed; what has no size, such as /proc, comes empty.
            byte_range: first byte, and the byte to stop before or None; a file that ends earlier gives fewer.
            known_file: do not ask what the path is, because the caller knows that it is a regular file.

        Returns:
            The open download; close it, or use it as a context manager.

        Raises:
            ConfigError: it is a directory, a device, a socket or a FIFO, or the path or the range cannot be used.
            NotFoundError: no such file.
            ApiError: the agent refuses; 416 for a range behind the end.
            TransportError: no answer.

        Source: specs/execd-api.yaml, GET /files/download.
        """
        check_agent_path(path)
        headers = range_header(byte_range)
        info = None if known_file else self.files_info(endpoint, [path])[path]
        if info is not None and info.type in ("directory", "other"):
            raise not_a_file_error(path, info.type)
        answer = self._ask_with_retry(
            endpoint, "GET", "/files/download", [("path", path)], lambda answer: answer, headers=headers
        )
        if (answer.length or 0) >= _NO_FILE_BYTES or (headers and answer.status != 206):
            answer.close()
            if not headers:
                raise not_a_file_error(path, "directory")
            raise ProtocolError(f"{path}: a part was asked for, and the answer is not one (status {answer.status})")
        whole = info is not None and info.type == "file" and not headers
        size = answer.length if answer.length is not None else info.size if info and whole else -1
        download = Download(path, answer, size=size, most=range_length(byte_range), timeouts=self._transport.timeouts)
        if info is not None and whole and size != info.size:
            self._check_changing(endpoint, download, before=info.size)
        return download

    @one_call
    def files_info(self, endpoint: Endpoint | str, paths: Iterable[str]) -> dict[str, FileInfo]:
        """Return what the agent says of some paths; a link is described itself, not its target.

        Args:
            endpoint: the agent.
            paths: absolute paths.

        Returns:
            Entries by path, in the order asked for.

        Raises:
            NotFoundError: one of them does not exist.
            ApiError: the agent refuses.
            ProtocolError: the answer lacks one of them.
            TransportError: no answer.

        Source: specs/execd-api.yaml, GET /files/info.
        """
        found: dict[str, FileInfo] = {}
        for query in path_queries(paths):
            body = self._ask_with_retry(endpoint, "GET", "/files/info", query, Response.json)
            for _, path in query:
                if not isinstance(body, dict) or path not in body:
                    raise ProtocolError(f"the agent says nothing of {path}, but {str(body)[:200]}")
                found[path] = FileInfo.from_wire(body[path])
        return found

    @one_call
    def search_files(self, endpoint: Endpoint | str, directory: str, pattern: str = "**") -> list[FileInfo]:
        """Return the files below a directory whose name matches; directories are not among them.

        Args:
            endpoint: the agent.
            directory: absolute path.
            pattern: glob that is compared with the name alone: ``*.py`` and ``**/*.py`` are the same, ``a/*.py``
                never matches.

        Returns:
            Entries in the agent's order.

        Raises:
            NotFoundError: no such directory.
            ApiError: the agent refuses, for example a malformed pattern.
            ProtocolError: the answer is not what it should be, or lists more than 100,000 files.
            TransportError: no answer.

        Source: specs/execd-api.yaml, GET /files/search.
        """
        check_agent_path(directory)
        query = [("path", directory), ("pattern", pattern)]
        # Nothing found is null, or an empty list, and never nothing at all.
        read = partial(Response.json, needed=True, max_bytes=MAX_SEARCH_BYTES, max_values=VALUES_PER_FILE * MAX_FOUND)
        found = list(read_files(self._ask_with_retry(endpoint, "GET", "/files/search", query, read)))
        if len(found) > MAX_FOUND:
            raise ProtocolError(f"a search found more than {MAX_FOUND:,} files: search in smaller directories")
        return found

    @one_call
    def remove_files(self, endpoint: Endpoint | str, paths: Iterable[str]) -> None:
        """Remove files; missing ones are fine.

        Args:
            endpoint: the agent.
            paths: absolute paths.

        Raises:
            ApiError: the agent refuses, for example a directory.
            TransportError: no answer.

        Source: specs/execd-api.yaml, DELETE /files.
        """
        for query in path_queries(paths):
            self._ask_with_retry(endpoint, "DELETE", "/files", query, Response.read)

    @one_call
    def make_directories(self, endpoint: Endpoint | str, paths: Iterable[str], *, mode: int = 0o755) -> None:
        """Make directories with their parents; existing ones are fine and keep their mode.

        Args:
            endpoint: the agent.
            paths: absolute paths.
            mode: permission bits, 1 … 0o777.

        Raises:
            ApiError: the agent refuses, for example where a file is in the way.
            TransportError: no answer.

        Source: specs/execd-api.yaml, POST /directories.
        """
        body = {check_agent_path(path): {"mode": wire_mode(mode)} for path in paths}
        if body:
            retry_idempotent(
                lambda: self._transport.ask(endpoint, "POST", "/directories", json=body).read(),
                timeouts=self._transport.timeouts,
            )

    @one_call
    def remove_directories(self, endpoint: Endpoint | str, paths: Iterable[str]) -> None:
        """Remove directories with all that is in them; missing ones are fine.

        Args:
            endpoint: the agent.
            paths: absolute paths; never ``/``.

        Raises:
            ConfigError: one of them is the root.
            ApiError: the agent refuses.
            TransportError: no answer.

        Source: specs/execd-api.yaml, DELETE /directories.
        """
        paths = list(paths)
        for path in paths:
            # The agent itself would remove it.
            if not [part for part in PurePosixPath(path).parts[1:] if part != ".."]:
                raise ConfigError("path", "not be the root", path)
        for query in path_queries(paths):
            self._ask_with_retry(endpoint, "DELETE", "/directories", query, Response.read)

    def _ask_with_retry(
        self,
        endpoint: Endpoint | str,
        method: str,
        path: str,
        query: Query,
        read: Callable[[Response], T],
        *,
        headers: dict[str, str] | None = None,
    ) -> T:
        """Send an idempotent request and read its response; both are repeated after a passing failure."""
        timeout = (self._transport.timeouts.connect_seconds, self._transport.timeouts.transfer_silence_seconds)

        def call() -> T:
            return read(self._transport.ask(endpoint, method, path, params=query, headers=headers, timeout=timeout))

        try:
            return retry_idempotent(call, timeouts=self._transport.timeouts)
        except ApiError as exc:
            # Agents before 1.0.19 have no 404 for files.
            if exc.status == 500 and any(words in exc.message for words in _NO_SUCH_FILE):
                raise NotFoundError(404, code="FILE_NOT_FOUND", message=exc.message) from exc
            raise

    def _check_changing(self, endpoint: Endpoint | str, download: Download, *, before: int) -> None:
        """Refuse a length that is not between the file's lengths before and after the request, as that of a log is."""
        try:
            after = self.files_info(endpoint, [download.path])[download.path].size
            if not min(before, after) <= download.size <= max(before, after):
                raise ProtocolError(f"{download.path}: it has {after:,} bytes, and {download.size:,} are promised")
        except BaseException:
            download.close()
            raise

    def _length(self, endpoint: Endpoint | str, path: str) -> int:
        """Return how long a file is, links followed, without reading it; -1 where the agent does not say."""
        with self.download_file(endpoint, path, known_file=True) as download:
            return download.size

    def _check_sizes(self, endpoint: Endpoint | str, sizes: dict[str, int]) -> None:
        """Compare the sizes with those that were sent; some gateways lose the end of a body without an error."""
        try:
            found = self.files_info(endpoint, sizes)
        except NotFoundError as exc:
            if has_no_sandbox(exc):
                raise
            raise ProtocolError(f"an upload was accepted, and a file is not there: {exc.message}") from exc
        for path, sent in sizes.items():
            info = found[path]
            # Without a type it may be a link, whose own size says nothing of the file behind it.
            there = info.size if info.type or info.size == sent else self._length(endpoint, path)
            if info.type in ("", "file") and there != sent:
                raise ProtocolError(f"{path}: {sent:,} bytes were sent, {there:,} are there")


def not_a_file_error(path: str, kind: str) -> ConfigError:
    """Return the error for a path that is none of a regular file."""
    if kind == "directory":
        return ConfigError("path", "be a file, it is a directory; use get() for trees", path)
    return ConfigError("path", "be a file, it is a device, a socket or a FIFO", path)
