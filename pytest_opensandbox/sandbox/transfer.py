"""Copies of files and trees between the host and a sandbox; any name that a file system takes is allowed."""

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
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree, pack_tree
from pytest_opensandbox.sandbox.local_files import add_path_to_errors, open_replacement, temporary_archive
from pytest_opensandbox.sandbox.transfer_scripts import PACK_TREE, PATH_KIND, PLACE_FILE, UNPACK_TREE
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.retry import retry_idempotent

MAX_BYTES = 4 * 1024**3
"""Default limit of one get; bytes."""

Run = Callable[[Sequence[str]], CommandResult]
"""Runs an argument list in the sandbox and returns the result."""

_MAX_HEADERS_BYTES = 320 * 1024**2
"""Size limit of the headers and the padding of a tar, in addition to that of its files."""
_ULIMIT_BLOCK_BYTES = 512

_KERNEL_FILES = ("/proc/", "/sys/")
_REMOVED_MEANWHILE = re.compile(
    r"tar: (.*: No such file or directory|[Ee]rror exit delayed from previous errors\.?)", re.DOTALL
)
_RETRY_BY_SCRIPT = ("text file busy", "permission denied", "operation not permitted")


class Transfer:
    """Copies files and trees into one sandbox and out of it.

    Args:
        client: sends the requests.
        endpoint: of the sandbox's agent.
        run: runs the commands for what the agent's file operations cannot do.
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
            OSError: a local file does not exist or cannot be read.
            CommandError: the sandbox could not unpack a tree; it needs ``tar``.
            ApiError: the agent refused the upload.
            ProtocolError: the uploaded file has another size.
            TransportError: the agent did not answer.
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
            TransportError: the agent did not answer.
        """
        if self._check_kind(path, max_bytes) == "directory":
            raise ConfigError("dst", "be given, because a directory has no bytes of its own", path)
        with self._readable_path(path) as source:
            return retry_idempotent(lambda: self._download(source, max_bytes), timeouts=self._client.timeouts)

    def get(
        self, path: str, dst: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, links: Links = "error"
    ) -> Path:
        """Copy a file or a tree to the host.

        Args:
            path: absolute path in the sandbox; a symbolic link is followed.
            dst: local path; missing parents are made. A directory's content is written into it. A file is written to
                it, or into it if it is a directory.
            max_bytes: most bytes of all files together.
            links: policy for a symbolic link of a tree that leads outside it, as every absolute one does:
                ``"error"`` refuses the tree, ``"skip"`` leaves the link out, ``"keep"`` copies it unchanged.

        Returns:
            The local path that was written.

        Raises:
            NotFoundError: no such path.
            ConfigError: ``path`` is not absolute, or is a device, socket or FIFO; or ``links`` is another value.
            FileTooLargeError: more than ``max_bytes``.
            UnsafeArchiveError: the tree would touch something outside ``dst``.
            CommandError: the sandbox could not pack a tree; it needs ``tar``.
            OSError: the local path cannot be written.
            TransportError: the agent did not answer.
        """
        if links not in get_args(Links):
            raise ConfigError("links", f"be one of {', '.join(get_args(Links))}", links)
        if self._check_kind(path, max_bytes) == "directory":
            return self._get_tree(path, Path(dst), max_bytes, links)
        return self._get_file(path, Path(dst), max_bytes)

    def _put_file(self, content: bytes | Path, dst: str, mode: int) -> None:
        upload = FileUpload(dst, content, mode)
        # The agent reads mode 0 as "leave the mode unchanged".
        if not _is_plain(dst) or mode == 0:
            self._place_file(upload)
            return
        try:
            self._client.upload_files(self._endpoint, [upload])
        except ApiError as exc:
            if not any(words in exc.message.lower() for words in _RETRY_BY_SCRIPT):
                raise
            try:
                self._place_file(upload)
            except CommandError:
                raise exc from None

    def _place_file(self, upload: FileUpload) -> None:
        """Upload a file to a scratch path, and have a script move it where the agent cannot write it."""
        parent = str(PurePosixPath(upload.path).parent)
        with self._scratch_path("file") as scratch:
            self._client.upload_files(self._endpoint, [replace(upload, path=scratch, mode=0o600)])
            mode, free = f"{upload.mode:o}", PurePosixPath(scratch).name
            self._run_script(f"put {upload.path}", PLACE_FILE, scratch, parent, upload.path, mode, free).check()

    def _put_tree(self, source: Path, dst: str) -> None:
        root_mode = f"{source.stat().st_mode & 0o777:o}"
        with temporary_archive() as archive, self._scratch_path("tar") as scratch:
            free = PurePosixPath(scratch).stem
            pack_tree(source, archive, closing_script=f"{free}.sh")
            archive.flush()
            self._client.upload_files(self._endpoint, [FileUpload(scratch, Path(archive.name), 0o600)])
            self._run_script(f"put {dst}", UNPACK_TREE, scratch, dst, root_mode, free).check()

    def _get_file(self, path: str, dst: Path, max_bytes: int) -> Path:
        target = dst / PurePosixPath(path).name if dst.is_dir() else dst
        with self._readable_path(path) as source:
            mode = self._client.files_info(self._endpoint, [source])[source].mode
            target.parent.mkdir(parents=True, exist_ok=True)
            with add_path_to_errors(target), open_replacement(target, mode & 0o777 or 0o644) as file:
                self._download_to(source, file, max_bytes)
        return target

    def _get_tree(self, path: str, dst: Path, max_bytes: int, links: Links) -> Path:
        with temporary_archive() as archive, self._scratch_path("tar") as scratch:
            self._pack(path, scratch, max_bytes)
            self._download_to(scratch, archive, max_bytes + _MAX_HEADERS_BYTES)
            archive.seek(0)
            with add_path_to_errors(dst):
                extract_tree(archive, dst, ArchiveBudget(max_bytes), links=links)
        return dst

    def _pack(self, path: str, archive: str, max_bytes: int) -> None:
        """Make a tar of a tree in the sandbox; it fails at a size that ``get`` would refuse."""
        limit = max_bytes + _MAX_HEADERS_BYTES
        result = self._run_script(f"get {path}", PACK_TREE, str(limit // _ULIMIT_BLOCK_BYTES), archive, path)
        if not result.ok and self._kind_and_size(archive)[1] > limit - _ULIMIT_BLOCK_BYTES:
            raise FileTooLargeError(path, size_bytes=limit, max_bytes=max_bytes)
        if result.exit_code != 1 or not _only_removed_files(result.stderr):
            result.check()

    def _run_script(self, title: str, script: str, *arguments: str) -> CommandResult:
        """Run a script; an error shows the title instead of the script."""
        return replace(self._run(["sh", "-c", script, "sh", *arguments]), command=title)

    def _download(self, source: str, max_bytes: int) -> bytes:
        with self._client.download_file(self._endpoint, source) as download:
            return b"".join(_limit_size(download, source, max_bytes))

    def _download_to(self, source: str, file: BinaryIO, max_bytes: int) -> None:
        """Write a file's content to a local file; start again if the connection breaks."""

        def copy() -> None:
            file.seek(0)
            file.truncate()
            with self._client.download_file(self._endpoint, source) as download:
                for chunk in _limit_size(download, source, max_bytes):
                    file.write(chunk)

        retry_idempotent(copy, timeouts=self._client.timeouts)

    def _check_kind(self, path: str, max_bytes: int) -> str:
        """Return ``file`` or ``directory``, links followed; refuse everything else, and a file that is too large."""
        check_path(path)
        kind, size = self._kind_and_size(path)
        if kind == "other":
            raise ConfigError("path", "be a file or a directory, it is a device, socket or FIFO", path)
        if kind == "file" and size > max_bytes:
            raise FileTooLargeError(path, size_bytes=size, max_bytes=max_bytes)
        return kind

    def _kind_and_size(self, path: str) -> tuple[str, int]:
        """Return the kind of a path, and its size if the agent knows it, else 0."""
        if _is_plain(path):
            info = self._file_info(path)
            if info.type in ("file", "directory"):
                return info.type, info.size
        kind = self._run(["sh", "-c", PATH_KIND, "sh", path]).check().stdout.strip()
        if not kind:
            raise _not_found(path)
        return kind, 0

    def _file_info(self, path: str) -> FileInfo:
        try:
            return self._client.files_info(self._endpoint, [path])[path]
        except NotFoundError as exc:
            # This may be the answer of the server's proxy, which no longer knows the sandbox.
            if exc.code.endswith("SANDBOX_NOT_FOUND"):
                raise
            raise _not_found(path) from None

    @contextmanager
    def _readable_path(self, path: str) -> Iterator[str]:
        """Yield a path at which the agent reads the whole file: the path itself, or that of a copy."""
        # The kernel's own files have a size of 0, and the agent sends as many bytes as the size says.
        if _is_plain(path) and not path.startswith(_KERNEL_FILES):
            yield path
            return
        with self._scratch_path("copy") as scratch:
            self._run(["cp", "-p", "--", path, scratch]).check()
            yield scratch

    @contextmanager
    def _scratch_path(self, suffix: str) -> Iterator[str]:
        """Yield a path for a temporary file in the sandbox, which is removed after the block."""
        path = f"/tmp/.opensandbox-{secrets.token_hex(8)}.{suffix}"  # noqa: S108 - in the sandbox, unguessable
        try:
            yield path
        finally:
            # An error of the copy itself must stay visible.
            with suppress(OpenSandboxError):
                self._client.remove_files(self._endpoint, [path])


def _limit_size(download: Download, path: str, max_bytes: int) -> Iterator[bytes]:
    """Yield the chunks of a download up to a limit; a sandbox may send more than it announced."""
    if download.size > max_bytes:
        raise FileTooLargeError(path, size_bytes=download.size, max_bytes=max_bytes)
    received = 0
    for chunk in download:
        received += len(chunk)
        if received > max_bytes:
            raise FileTooLargeError(path, size_bytes=received, max_bytes=max_bytes)
        yield chunk


def _not_found(path: str) -> NotFoundError:
    return NotFoundError(404, code="FILE_NOT_FOUND", message=f"no such file or directory in the sandbox: {path}")


def _only_removed_files(stderr: str) -> bool:
    """Return whether all errors of a tar program are about files that were removed while it packed."""
    return bool(stderr) and all(_REMOVED_MEANWHILE.fullmatch(line) for line in stderr.splitlines())


def _is_plain(path: str) -> bool:
    """Return whether the agent takes the path unchanged and can send the file.

    The agent expands ``$NAME`` in file names. It puts a control character unescaped into a header of its response,
    which a proxy refuses with 502.
    """
    return "$" not in path and not any(char < " " or char == "\x7f" for char in path)
