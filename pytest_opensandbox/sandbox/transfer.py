"""Copies files and trees between the host and a sandbox, whatever their names are."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, get_args

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.file_transfer import Download
from pytest_opensandbox.client.models import FileInfo, FileUpload, check_path
from pytest_opensandbox.errors import (
    ApiError,
    CommandError,
    ConfigError,
    FileTooLargeError,
    NotFoundError,
    OpenSandboxError,
)
from pytest_opensandbox.sandbox.archive_checks import Links
from pytest_opensandbox.sandbox.archives import extract_tree, pack_tree
from pytest_opensandbox.sandbox.local_files import naming, replacing_file, temporary_archive
from pytest_opensandbox.sandbox.transfer_scripts import KIND, PACK, PLACE, UNPACK
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.retry import retry_idempotent

MAX_BYTES = 4 * 1024**3
"""Most that one get takes in; bytes."""

Run = Callable[[Sequence[str]], CommandResult]
"""Runs an argument list in the sandbox and returns how it ended."""

_HEADERS_BYTES = 320 * 1024**2
"""What the headers and the padding of a tree with as many members as we take may come to."""
_ULIMIT_BYTES = 512

_UNCOUNTED = ("/proc/", "/sys/")
_VANISHED = re.compile(r"tar: (.*: No such file or directory|[Ee]rror exit delayed from previous errors\.?)", re.DOTALL)
_REPLACEABLE = ("text file busy", "permission denied", "operation not permitted")


class Transfer:
    """The way in and out of one sandbox.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        run: runs what the file operations cannot express.
    """

    def __init__(self, client: Client, endpoint: Endpoint, run: Run) -> None:
        self._client = client
        self._endpoint = endpoint
        self._run = run

    def put(self, src: bytes | str | os.PathLike[str], dst: str, *, mode: int | None = None) -> None:
        """Write bytes, text, a local file or a local tree to ``dst``.

        Args:
            src: bytes; text, written as UTF-8; or a path object that names a file or a directory.
            dst: absolute path in the sandbox; for a directory it becomes the root of the tree.
            mode: permission bits, 0 … 0o777; default those of the source, 0o644 for bytes and text.

        Raises:
            ConfigError: ``dst`` is not absolute, ``mode`` was given for a tree, or ``src`` is a device, socket or FIFO.
            OSError: a local file is not there, or cannot be read.
            CommandError: the sandbox could not unpack a tree; it needs ``tar``.
            ApiError: the agent refuses.
            ProtocolError: what arrived has another size.
            TransportError: the agent does not answer.
        """
        check_path(dst, field="dst")
        if not isinstance(src, (bytes, str, os.PathLike)):
            raise ConfigError("src", "be bytes, text, or a path object that names a local file or directory", src)
        if isinstance(src, (bytes, str)):
            content = src.encode() if isinstance(src, str) else src
            self._put_file(content, dst, 0o644 if mode is None else mode)
        elif (local := Path(src)).is_dir():
            if mode is not None:
                raise ConfigError("mode", "be left out for a directory, whose files keep their own", mode)
            self._put_tree(local, dst)
        else:
            self._put_file(local, dst, local.stat().st_mode & 0o777 if mode is None else mode)

    def read(self, path: str, *, max_bytes: int = MAX_BYTES) -> bytes:
        """Return the content of one file.

        Args:
            path: absolute path in the sandbox; a symbolic link is followed.
            max_bytes: refuse a longer file; bytes.

        Raises:
            NotFoundError: no such path.
            ConfigError: ``path`` is not absolute, or not a file.
            FileTooLargeError: more than ``max_bytes``.
            TransportError: the agent does not answer.
        """
        if self._look(path, max_bytes) == "directory":
            raise ConfigError("dst", "be given, because a directory has no bytes of its own", path)
        with self._readable(path) as source:
            return retry_idempotent(lambda: self._content(source, max_bytes), timeouts=self._client.timeouts)

    def get(
        self, path: str, dst: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, links: Links = "error"
    ) -> Path:
        """Copy a file or a tree to the host.

        Args:
            path: absolute path in the sandbox; a symbolic link is followed.
            dst: local path, its parents are made; a directory becomes its content, a file is written to it, or into
                it where it is a directory.
            max_bytes: most that is taken; bytes.
            links: what happens to a symbolic link of a tree that leads outside it, as every absolute one does:
                ``"error"`` refuses the tree, ``"skip"`` leaves the link out, ``"keep"`` takes it as it is.

        Returns:
            The local path that was written.

        Raises:
            NotFoundError: no such path.
            ConfigError: ``path`` is not absolute, or is a device, socket or FIFO; or ``links`` is something else.
            FileTooLargeError: more than ``max_bytes``.
            UnsafeArchiveError: the tree would touch something outside ``dst``.
            CommandError: the sandbox could not pack a tree; it needs ``tar``.
            OSError: the local path cannot be written.
            TransportError: the agent does not answer.
        """
        if links not in get_args(Links):
            raise ConfigError("links", f"be one of {', '.join(get_args(Links))}", links)
        if self._look(path, max_bytes) == "directory":
            return self._get_tree(path, Path(dst), max_bytes, links)
        return self._get_file(path, Path(dst), max_bytes)

    def _put_file(self, content: bytes | Path, dst: str, mode: int) -> None:
        upload = FileUpload(dst, content, mode)
        # The agent takes mode 0 for "leave it as it is".
        if not _is_plain(dst) or mode == 0:
            self._place_file(upload)
            return
        try:
            self._client.upload_files(self._endpoint, [upload])
        except ApiError as exc:
            if not any(words in exc.message.lower() for words in _REPLACEABLE):
                raise
            try:
                self._place_file(upload)
            except CommandError:
                raise exc from None

    def _place_file(self, upload: FileUpload) -> None:
        """Have the sandbox put an uploaded file in its place, where the agent cannot."""
        parent = str(PurePosixPath(upload.path).parent)
        with self._scratch("file") as scratch:
            self._client.upload_files(self._endpoint, [replace(upload, path=scratch, mode=0o600)])
            mode, free = f"{upload.mode:o}", PurePosixPath(scratch).name
            self._run_script(f"put {upload.path}", PLACE, scratch, parent, upload.path, mode, free).check()

    def _put_tree(self, source: Path, dst: str) -> None:
        root_mode = f"{source.stat().st_mode & 0o777:o}"
        with temporary_archive() as archive, self._scratch("tar") as scratch:
            free = PurePosixPath(scratch).stem
            pack_tree(source, archive, closing_script=f"{free}.sh")
            archive.flush()
            self._client.upload_files(self._endpoint, [FileUpload(scratch, Path(archive.name), 0o600)])
            self._run_script(f"put {dst}", UNPACK, scratch, dst, root_mode, free).check()

    def _get_file(self, path: str, dst: Path, max_bytes: int) -> Path:
        target = dst / PurePosixPath(path).name if dst.is_dir() else dst
        with self._readable(path) as source:
            mode = self._client.files_info(self._endpoint, [source])[source].mode
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(target), replacing_file(target, mode & 0o777 or 0o644) as file:
                self._copy(source, file, max_bytes)
        return target

    def _get_tree(self, path: str, dst: Path, max_bytes: int, links: Links) -> Path:
        with temporary_archive() as archive, self._scratch("tar") as scratch:
            self._pack(path, scratch, max_bytes)
            self._copy(scratch, archive, max_bytes + _HEADERS_BYTES)
            archive.seek(0)
            with naming(dst):
                extract_tree(archive, dst, max_bytes=max_bytes, links=links)
        return dst

    def _pack(self, path: str, archive: str, max_bytes: int) -> None:
        """Make a tar of a tree in the sandbox, which ends where nobody would take it."""
        limit = max_bytes + _HEADERS_BYTES
        result = self._run_script(f"get {path}", PACK, str(limit // _ULIMIT_BYTES), archive, path)
        if not result.ok and self._ask(archive)[1] > limit - _ULIMIT_BYTES:
            raise FileTooLargeError(path, size_bytes=limit, max_bytes=max_bytes)
        if result.exit_code != 1 or not _only_vanished(result.stderr):
            result.check()

    def _run_script(self, title: str, script: str, *arguments: str) -> CommandResult:
        """Run a script, which an error names by what it is for."""
        return replace(self._run(["sh", "-c", script, "sh", *arguments]), command=title)

    def _content(self, source: str, max_bytes: int) -> bytes:
        with self._client.download_file(self._endpoint, source) as download:
            return b"".join(_limited(download, source, max_bytes))

    def _copy(self, source: str, file: BinaryIO, max_bytes: int) -> None:
        """Write a file's content, from the beginning again where the connection broke."""

        def copy() -> None:
            file.seek(0)
            file.truncate()
            with self._client.download_file(self._endpoint, source) as download:
                for chunk in _limited(download, source, max_bytes):
                    file.write(chunk)

        retry_idempotent(copy, timeouts=self._client.timeouts)

    def _look(self, path: str, max_bytes: int) -> str:
        """Return ``file`` or ``directory``, links followed."""
        check_path(path)
        kind, size = self._ask(path)
        if kind == "other":
            raise ConfigError("path", "be a file or a directory, it is a device, socket or FIFO", path)
        if kind == "file" and size > max_bytes:
            raise FileTooLargeError(path, size_bytes=size, max_bytes=max_bytes)
        return kind

    def _ask(self, path: str) -> tuple[str, int]:
        """Return what a path is, and its size where the agent says it, else 0."""
        if _is_plain(path):
            info = self._info(path)
            if info.type in ("file", "directory"):
                return info.type, info.size
        kind = self._run(["sh", "-c", KIND, "sh", path]).check().stdout.strip()
        if not kind:
            raise _not_found(path)
        return kind, 0

    def _info(self, path: str) -> FileInfo:
        try:
            return self._client.files_info(self._endpoint, [path])[path]
        except NotFoundError as exc:
            # The server, whose proxy is asked here, may not know the sandbox any more.
            if exc.code.endswith("SANDBOX_NOT_FOUND"):
                raise
            raise _not_found(path) from None

    @contextmanager
    def _readable(self, path: str) -> Iterator[str]:
        """Yield a path under which the agent reads the whole file: itself, or a copy."""
        # The kernel's own files say that they are empty, and the agent sends as much as they say.
        if _is_plain(path) and not path.startswith(_UNCOUNTED):
            yield path
            return
        with self._scratch("copy") as scratch:
            self._run(["cp", "-p", "--", path, scratch]).check()
            yield scratch

    @contextmanager
    def _scratch(self, suffix: str) -> Iterator[str]:
        """Yield the name of a file in the sandbox that is gone afterwards."""
        path = f"/tmp/.opensandbox-{secrets.token_hex(8)}.{suffix}"  # noqa: S108 - in the sandbox, unguessable
        try:
            yield path
        finally:
            # What went wrong with the copy must not be hidden by this.
            with suppress(OpenSandboxError):
                self._client.remove_files(self._endpoint, [path])


def _limited(download: Download, path: str, max_bytes: int) -> Iterator[bytes]:
    """Yield what arrives, and stop where it is more than allowed: a sandbox need not say how much it sends."""
    if download.size > max_bytes:
        raise FileTooLargeError(path, size_bytes=download.size, max_bytes=max_bytes)
    arrived = 0
    for chunk in download:
        arrived += len(chunk)
        if arrived > max_bytes:
            raise FileTooLargeError(path, size_bytes=arrived, max_bytes=max_bytes)
        yield chunk


def _not_found(path: str) -> NotFoundError:
    return NotFoundError(404, code="FILE_NOT_FOUND", message=f"no such file or directory in the sandbox: {path}")


def _only_vanished(stderr: str) -> bool:
    """Whether a tar that packed complains of files only that were removed before it came to them."""
    return bool(stderr) and all(_VANISHED.fullmatch(line) for line in stderr.splitlines())


def _is_plain(path: str) -> bool:
    """Whether the agent takes the path as it is, and can send what is there.

    It expands ``$NAME`` also in file names. A control character would stand as it is in a header of its answer, which
    a proxy refuses with 502.
    """
    return "$" not in path and not any(char < " " or char == "\x7f" for char in path)
