"""The handle that a test holds: run commands, copy files, and know that it will be gone."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import overload

from pytest_opensandbox.agent import Agent
from pytest_opensandbox.commands import MAX_STREAM_BYTES
from pytest_opensandbox.errors import SandboxClosedError
from pytest_opensandbox.history import HISTORY_LENGTH, CommandRecord, record_error, record_result, recording_copy
from pytest_opensandbox.invocations import Invocation
from pytest_opensandbox.lifecycle import Launched, Lifecycle
from pytest_opensandbox.models import Endpoint
from pytest_opensandbox.opts import SandboxOpts
from pytest_opensandbox.results import CommandResult
from pytest_opensandbox.streams import Callback
from pytest_opensandbox.transfer import MAX_BYTES, Transfer


class Sandbox:
    """One isolated machine; use it as a context manager, or close it.

    Args:
        lifecycle: owns its life.
        launched: the sandbox, ready.
        command_timeout: time limit of a command that names none; seconds, None for no limit.
    """

    def __init__(self, lifecycle: Lifecycle, launched: Launched, *, command_timeout: float | None = 60.0) -> None:
        self._lifecycle = lifecycle
        self._launched = launched
        self._command_timeout = command_timeout
        self._closing = threading.Lock()
        self._closed = False
        self._agent = Agent(lifecycle.client, launched.endpoint)
        self._on_close: list[Callable[[Sandbox], None]] = []
        self._transfer = Transfer(lifecycle.client, launched.endpoint, self._agent.run_quietly)
        self.started = time.monotonic()
        """``time.monotonic()`` when it became ready; seconds."""
        self.history: deque[CommandRecord] = deque(maxlen=HISTORY_LENGTH)
        """Its last commands, oldest first."""

    @classmethod
    def launch(
        cls, lifecycle: Lifecycle, opts: SandboxOpts, *, test: str = "", command_timeout: float | None = 60.0
    ) -> Sandbox:
        """Create a sandbox and return its handle once commands can run in it.

        Args:
            lifecycle: tags, lease and server.
            opts: what to create.
            test: name of the test that asks.
            command_timeout: time limit of a command that names none; seconds, None for no limit.

        Raises:
            ApiError: the server refuses.
            SandboxFailedError: it ended before it was ready.
            ReadyTimeoutError: it was not ready in time.
            TransportError: the server does not answer.
        """
        return cls(lifecycle, lifecycle.launch(opts, test=test), command_timeout=command_timeout)

    @property
    def id(self) -> str:
        """The server's id."""
        return self._launched.response.id

    @property
    def image(self) -> str:
        """The image or snapshot that it was made from."""
        return self._launched.image

    @property
    def metadata(self) -> Mapping[str, str]:
        """The labels that it was created with, this run's tags among them."""
        return self._launched.response.metadata

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def run(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        check: bool = False,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        timeout: float | None = None,
        input: bytes | str | None = None,  # noqa: A002 - the name that subprocess.run has for it
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
        max_bytes: int = MAX_STREAM_BYTES,
    ) -> CommandResult:
        """Run a command and return what it wrote, byte for byte, and how it ended.

        Args:
            command: text runs in the sandbox's shell; a list is an argument list that no shell interprets.
            check: raise where the command does not exit with 0.
            cwd: absolute working directory, which must exist; one with ``$`` that does not is told on standard error.
            env: variables on top of the sandbox's own.
            uid: numeric user to run as.
            gid: numeric group to run as; needs ``uid``.
            timeout: seconds until it is killed with its children; default ``--opensandbox-command-timeout``.
            input: standard input; text is sent as UTF-8.
            on_stdout: called with each line as it appears; the result then has ``exact=False``.
            on_stderr: as ``on_stdout``.
            max_bytes: most that is kept of each stream; the middle of a longer one is left out; bytes.

        Returns:
            Bytes and text of both streams, exit code, signal and duration. With ``exact=True`` the bytes equal those
            that ``subprocess.run(capture_output=True)`` gives for the same command. As there, what goes on in the
            background is waited for as long as it holds one of the streams; redirect both of them to leave it behind.
            A command that SIGINT or SIGPIPE ended has the shell's exit code for it, 130 or 141, and no signal.

        Raises:
            CommandTimeoutError: its time was up; holds what it had written.
            CommandError: with ``check``, it did not exit with 0.
            CommandStartError: it could not be started.
            CommandLostError: the connection ended before it did; it is not run again.
            ApiError: the agent refuses, for example a directory or a user that does not exist.
            TransportError: the agent does not answer.
            SharedAgentError: another sandbox answers; nothing was run.
            SandboxClosedError: the sandbox is closed.
            ConfigError: an argument breaks a rule.

        Source: specs/execd-api.yaml, POST /command; exactness measured on 2026-11-20 with execd 1.0.19.
        """
        __tracebackhide__ = True
        invocation = Invocation(
            command=command if isinstance(command, str) else [_text(word) for word in command],
            cwd=cwd,
            env=env,
            uid=uid,
            gid=gid,
            timeout=self._command_timeout if timeout is None else timeout,
            stdin=input.encode() if isinstance(input, str) else input,
            max_bytes=max_bytes,
        )
        result = self._recorded(invocation, lambda: self._agent.run(invocation, on_stdout, on_stderr))
        return result.check() if check or result.timed_out else result

    def put(self, src: bytes | str | os.PathLike[str], dst: str | PurePosixPath, *, mode: int | None = None) -> None:
        """Write bytes, text, a local file or a local tree into the sandbox.

        Args:
            src: bytes; text, written as UTF-8; or a path object that names a local file or directory.
            dst: absolute path in the sandbox; missing parents are made; for a directory it becomes the root.
            mode: permission bits, 0 … 0o777; default those of the source, 0o644 for bytes and text.

        Raises:
            ConfigError: ``dst`` is not absolute, ``mode`` was given for a tree, or ``src`` is a device, socket or FIFO.
            OSError: a local file is not there, or cannot be read.
            CommandError: a tree could not be unpacked; the sandbox needs ``tar``.
            ApiError: the agent refuses.
            ProtocolError: what arrived has another size.
            TransportError: the agent does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        __tracebackhide__ = True
        self._check_open()
        self._agent.check_own()
        with recording_copy(self.history, f"put {_source(src)} -> {dst}"):
            self._transfer.put(src, _text(dst), mode=mode)

    @overload
    def get(self, path: str | PurePosixPath, *, max_bytes: int = ...) -> bytes: ...

    @overload
    def get(self, path: str | PurePosixPath, dst: str | os.PathLike[str], *, max_bytes: int = ...) -> Path: ...

    def get(
        self, path: str | PurePosixPath, dst: str | os.PathLike[str] | None = None, *, max_bytes: int = MAX_BYTES
    ) -> bytes | Path:
        """Return a file's bytes, or copy a file or a tree to the host.

        Args:
            path: absolute path in the sandbox; a symbolic link is followed.
            dst: local path; a directory becomes its content, a file is written to it, or into it where it is a
                directory; None returns a file's bytes.
            max_bytes: refuse more than that; bytes.

        Returns:
            The bytes, or the local path that was written.

        Raises:
            NotFoundError: no such path.
            ConfigError: ``path`` is not absolute, is a device, or is a directory and ``dst`` is missing.
            FileTooLargeError: more than ``max_bytes``.
            UnsafeArchiveError: the tree would touch something outside ``dst``; nothing was written.
            CommandError: a tree could not be packed; the sandbox needs ``tar``.
            OSError: the local path cannot be written.
            TransportError: the agent does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        __tracebackhide__ = True
        self._check_open()
        self._agent.check_own()
        if dst is None:
            with recording_copy(self.history, f"get {path}"):
                return self._transfer.read(_text(path), max_bytes=max_bytes)
        with recording_copy(self.history, f"get {path} -> {dst}"):
            return self._transfer.get(_text(path), dst, max_bytes=max_bytes)

    def endpoint(self, port: int) -> Endpoint:
        """Return where a port of the sandbox can be reached from here; send its headers on every request.

        Raises:
            SandboxClosedError: the sandbox is closed.
            ApiError: the server cannot reach that port.
            TransportError: the server does not answer.
        """
        self._check_open()
        return self._lifecycle.client.get_endpoint(self.id, port)

    def close(self) -> None:
        """Delete the sandbox; a second call does nothing.

        Raises:
            ApiError: the server refuses; the sweep at the end of the run tries again.
            TransportError: the server does not answer; its lease ends it.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            self._lifecycle.delete(self.id)
        finally:
            for told in self._on_close:
                told(self)

    def call_on_close(self, told: Callable[[Sandbox], None]) -> None:
        """Have ``told`` called with this handle once it has been closed."""
        self._on_close.append(told)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} image={self.image} {'closed' if self._closed else 'running'}>"

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxClosedError(self.id)

    def _recorded(self, invocation: Invocation, perform: Callable[[], CommandResult]) -> CommandResult:
        """Perform a command and add it to the history, however it ends."""
        self._check_open()
        started = time.monotonic()
        try:
            result = perform()
        except BaseException as exc:
            self.history.append(record_error(invocation.command, started, exc))
            raise
        self.history.append(record_result(result, started))
        return result


def _text(path: str | os.PathLike[str]) -> str:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _source(src: bytes | str | os.PathLike[str]) -> str:
    """Say what is put, without its content."""
    if isinstance(src, (bytes, str)):
        return f"{len(src):,} {'bytes' if isinstance(src, bytes) else 'characters'}"
    return str(src)
