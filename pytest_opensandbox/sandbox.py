"""The handle that a test holds: run commands, copy files, and know that it will be gone."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

from pytest_opensandbox.capture import MAX_STREAM_BYTES, Invocation, run_exact, run_live
from pytest_opensandbox.errors import CommandTimeoutError, ConfigError, SandboxClosedError
from pytest_opensandbox.history import HISTORY_LENGTH, CommandRecord, record_error, record_result
from pytest_opensandbox.lifecycle import Launched, Lifecycle
from pytest_opensandbox.models import Endpoint
from pytest_opensandbox.opts import SandboxOpts
from pytest_opensandbox.results import CommandResult
from pytest_opensandbox.transfer import MAX_BYTES, Transfer

Callback = Callable[[str], None]


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
        self._on_close: list[Callable[[Sandbox], None]] = []
        self._transfer = Transfer(lifecycle.client, launched.endpoint, self._run_quietly)
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
        command: str | Sequence[str],
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
            command: text runs in the sandbox's shell; a list is an argument list and never meets a shell.
            check: raise where the command does not exit with 0.
            cwd: absolute working directory, which must exist.
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
            that ``subprocess.run(capture_output=True)`` gives for the same command.

        Raises:
            CommandTimeoutError: its time was up; holds what it had written.
            CommandError: with ``check``, it did not exit with 0.
            CommandStartError: it could not be started.
            CommandLostError: the connection ended before it did; it is not run again.
            SandboxClosedError: the sandbox is closed.
            ConfigError: an argument breaks a rule.

        Source: specs/execd-api.yaml, POST /command; exactness measured on 2026-11-20 with execd 1.0.19.
        """
        __tracebackhide__ = True
        limit = self._command_timeout if timeout is None else timeout
        invocation = Invocation(
            command=_checked(command, limit, max_bytes),
            cwd=cwd,
            env=env,
            uid=uid,
            gid=gid,
            timeout=limit,
            stdin=input.encode() if isinstance(input, str) else input,
        )
        result = self._recorded(invocation, lambda: self._perform(invocation, on_stdout, on_stderr, max_bytes))
        if result.timed_out:
            raise _timeout_error(result, limit)
        return result.check() if check else result

    def put(self, src: bytes | str | os.PathLike[str], dst: str, *, mode: int | None = None) -> None:
        """Write bytes, text, a local file or a local tree into the sandbox.

        Args:
            src: bytes; text, written as UTF-8; or a path object that names a local file or directory.
            dst: absolute path in the sandbox; missing parents are made; for a directory it becomes the root.
            mode: permission bits, 0 … 0o777; default those of the source, 0o644 for bytes and text.

        Raises:
            ConfigError: ``dst`` is not absolute, or ``mode`` was given for a directory.
            FileNotFoundError: no such local file.
            CommandError: a tree could not be unpacked; the sandbox needs ``tar``.
            ApiError: the agent refuses.
            ProtocolError: what arrived has another size.
            SandboxClosedError: the sandbox is closed.
        """
        __tracebackhide__ = True
        self._check_open()
        self._transfer.put(src, dst, mode=mode)

    @overload
    def get(self, path: str, *, max_bytes: int = ...) -> bytes: ...

    @overload
    def get(self, path: str, dst: str | os.PathLike[str], *, max_bytes: int = ...) -> Path: ...

    def get(self, path: str, dst: str | os.PathLike[str] | None = None, *, max_bytes: int = MAX_BYTES) -> bytes | Path:
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
            SandboxClosedError: the sandbox is closed.
        """
        __tracebackhide__ = True
        self._check_open()
        if dst is None:
            return self._transfer.read(path, max_bytes=max_bytes)
        return self._transfer.get(path, dst, max_bytes=max_bytes)

    def endpoint(self, port: int) -> Endpoint:
        """Return where a port of the sandbox can be reached from here; send its headers on every request.

        Raises:
            SandboxClosedError: the sandbox is closed.
            ApiError: the server cannot reach that port.
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

    def _run_quietly(self, command: Sequence[str]) -> CommandResult:
        """Run what a copy needs: as root of the sandbox, outside the story that a report tells."""
        return run_exact(self._lifecycle.client, self._launched.endpoint, Invocation(command=command))

    def _perform(
        self, invocation: Invocation, on_stdout: Callback | None, on_stderr: Callback | None, max_bytes: int
    ) -> CommandResult:
        client, endpoint = self._lifecycle.client, self._launched.endpoint
        if on_stdout is None and on_stderr is None:
            return run_exact(client, endpoint, invocation, max_bytes=max_bytes)
        return run_live(client, endpoint, invocation, on_stdout=on_stdout, on_stderr=on_stderr, max_bytes=max_bytes)

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


def _checked(command: str | Sequence[str], timeout: float | None, max_bytes: int) -> str | Sequence[str]:
    words = [command] if isinstance(command, str) else list(command)
    if not words or not all(isinstance(word, str) for word in words) or not words[0]:
        raise ConfigError("command", "be text, or a list of text whose first word is a program", command)
    if any("\0" in word for word in words):
        raise ConfigError("command", "hold no NUL, which no process can be given", command)
    if timeout is not None and timeout <= 0:
        raise ConfigError("timeout", "be more than 0 seconds, or None for the default", timeout)
    if max_bytes < 2:
        raise ConfigError("max_bytes", "be at least 2", max_bytes)
    return command if isinstance(command, str) else words


def _timeout_error(result: CommandResult, limit: float | None) -> CommandTimeoutError:
    return CommandTimeoutError(
        result.command,
        timeout_seconds=limit or result.duration,
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
        sandbox_id=result.sandbox_id,
    )
