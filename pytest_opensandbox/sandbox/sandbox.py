"""The handle of a sandbox: commands, copies, pauses, snapshots and the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import overload

from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.command_run import MAX_STREAM_BYTES, Callback, check_byte_limit, input_bytes
from pytest_opensandbox.client.file_transfer import check_local_path, check_mode
from pytest_opensandbox.client.models import Snapshot, text_bytes
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.client.snapshots import SNAPSHOT_SECONDS
from pytest_opensandbox.client.waiters import PAUSE_SECONDS
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import PauseError, SandboxClosedError
from pytest_opensandbox.sandbox.agent import Agent
from pytest_opensandbox.sandbox.archive_checks import Links
from pytest_opensandbox.sandbox.history import History, source_of
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, ReadySandbox
from pytest_opensandbox.sandbox.process import Process
from pytest_opensandbox.sandbox.runner_protocol import Invocation
from pytest_opensandbox.sandbox.services import Services, path_text, words_of
from pytest_opensandbox.sandbox.snapshot import take_snapshot
from pytest_opensandbox.sandbox.transfer import MAX_BYTES


class Sandbox(Services):
    """One isolated machine; use it as a context manager, or close it.

    Args:
        lifecycle: owns its life.
        launched: the sandbox, ready.
        command_timeout: time limit of a command that names none; seconds, None for no limit.
    """

    def __init__(self, lifecycle: Lifecycle, launched: ReadySandbox, *, command_timeout: float | None = 60.0) -> None:
        self.started = monotonic()
        """``clock.monotonic()`` when it became ready; seconds."""
        self.prepared_by = ""
        """The setup whose snapshot it was restored from, in a few words; "" for none."""
        self._lifecycle = lifecycle
        self._launched = launched
        self._command_timeout = command_timeout
        self._agent = Agent(lifecycle.client, launched.endpoint, ready_timeout=lifecycle.ready_timeout)
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        self._paused = False

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
        """The image, snapshot or pool that it was made from."""
        return self._launched.image

    @property
    def metadata(self) -> Mapping[str, str]:
        """The labels that it was created with, this run's tags among them."""
        return self._launched.response.metadata

    @property
    def history(self) -> History:
        """Its last commands and copies, oldest first."""
        return self._agent.history

    @property
    def processes(self) -> Sequence[Process]:
        """What ``start`` has started, oldest first."""
        return tuple(self._agent.processes)

    @property
    def gone(self) -> str:
        """What became of it, where a call failed because it had ended before its time; else ""."""
        return self._agent.gone

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def state(self) -> str:
        """``running``, ``paused``, ``closed``, or ``gone`` and why, as far as this handle knows."""
        if self._closed:
            return "closed"
        return f"gone ({self.gone})" if self.gone else "paused" if self._paused else "running"

    def run(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        check: bool = False,
        cwd: str | PurePosixPath | None = None,
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
            cwd: absolute working directory, which must exist; default that of the image, and ``/workspace`` where it
                names none.
            env: variables on top of the sandbox's own.
            uid: numeric user to run as.
            gid: numeric group to run as; needs ``uid``.
            timeout: seconds until it is killed with all processes that descend from it; default
                ``--opensandbox-command-timeout``.
            input: standard input; text is sent as UTF-8.
            on_stdout: called with each line as it appears, without its end.
            on_stderr: as ``on_stdout``.
            max_bytes: most that is kept of each stream; the middle of a longer one is left out; bytes.

        Returns:
            Bytes and text of both streams, exit code, signal and duration. With ``exact=True`` the bytes equal those
            that ``subprocess.run(capture_output=True)`` gives for the same command. As there, what goes on in the
            background is waited for as long as it holds one of the streams; redirect both of them to leave it behind.
            A program of a list that is not there has exit code 127, and one that cannot be executed 126.
            Where the sandbox lets no program of ours run, ``exact`` is False and ``inexact_because`` says why.

        Raises:
            CommandTimeoutError: its time was up; holds what it had written.
            CommandError: with ``check``, it did not exit with 0.
            CommandStartError: it could not be started, for example in a directory that does not exist.
            CommandLostError: its end is not known; it is not run again.
            ApiError: the agent refuses.
            TransportError: the agent does not answer.
            SharedAgentError: another sandbox answers; nothing was run.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
            ConfigError: an argument breaks a rule.

        Source: docs/exact-output.md; specs/execd-api.yaml, POST /command.
        """
        __tracebackhide__ = True
        invocation = Invocation(
            command=words_of(command),
            cwd=None if cwd is None else path_text(cwd),
            env=env,
            uid=uid,
            gid=gid,
            timeout=self._command_timeout if timeout is None else timeout,
            stdin=input_bytes(input),
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            max_bytes=max_bytes,
        )
        self._check_open()
        result = self._agent.run(invocation)
        return result.check() if check or result.timed_out else result

    def put(self, src: bytes | str | os.PathLike[str], dst: str | PurePosixPath, *, mode: int | None = None) -> None:
        """Write bytes, text, a local file or a local tree into the sandbox.

        Args:
            src: bytes; text, written as UTF-8; or a path object that names a local file or directory.
            dst: absolute path in the sandbox; missing parents are made; for a directory it becomes the root. A tree
                is merged into directories that exist, also behind links to them; these keep their permissions.
            mode: permission bits, 0 … 0o777; default those of the source, 0o644 for bytes and text.

        Raises:
            ConfigError: ``dst`` is not absolute, ``mode`` was given for a tree, or ``src`` is a device, socket or FIFO.
            OSError: a local file is not there, or cannot be read.
            CommandError: a tree could not be unpacked; the sandbox needs ``tar``. Or a directory would replace
                something else, or something else a directory; nothing was changed then.
            ApiError: the agent refuses.
            ProtocolError: what arrived has another size.
            TransportError: the agent does not answer.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
        """
        __tracebackhide__ = True
        check_mode(mode)
        content = text_bytes("src", src) if isinstance(src, str) else src
        self._check_open()
        title = f"put {source_of(src)} -> {dst}"
        self._agent.copy(title, lambda transfer: transfer.put(content, path_text(dst), mode=mode))

    @overload
    def get(self, path: str | PurePosixPath, *, max_bytes: int = ..., links: Links = ...) -> bytes: ...

    @overload
    def get(
        self, path: str | PurePosixPath, dst: str | os.PathLike[str], *, max_bytes: int = ..., links: Links = ...
    ) -> Path: ...

    def get(
        self,
        path: str | PurePosixPath,
        dst: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        links: Links = "error",
    ) -> bytes | Path:
        """Return a file's bytes, or copy a file or a tree to the host.

        Args:
            path: absolute path in the sandbox; a symbolic link is followed.
            dst: local path; a directory becomes its content, a file is written to it, or into it where it is a
                directory; None returns a file's bytes. A file or a link there is replaced, a link in it never followed.
            max_bytes: refuse more than that; bytes.
            links: what happens to a symbolic link of a tree that leads outside it, as every absolute one does:
                ``"error"`` refuses the tree, ``"skip"`` leaves the link out, ``"keep"`` takes it as it is.

        Returns:
            The bytes, or the local path that was written.

        Raises:
            NotFoundError: no such path.
            ConfigError: ``path`` is not absolute, is a device, or is a directory and ``dst`` is missing; or ``links``
                is something else.
            FileTooLargeError: more than ``max_bytes``.
            UnsafeArchiveError: the tree would touch something outside ``dst``; nothing was written.
            CommandError: a tree could not be packed; the sandbox needs ``tar``.
            OSError: the local path cannot be written.
            TransportError: the agent does not answer.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
        """
        __tracebackhide__ = True
        check_byte_limit(max_bytes, least=0)
        if dst is not None:
            check_local_path("dst", dst)
        self._check_open()
        if dst is None:
            return self._agent.copy(f"get {path}", lambda transfer: transfer.read(path_text(path), max_bytes=max_bytes))
        return self._agent.copy(
            f"get {path} -> {dst}",
            lambda transfer: transfer.get(path_text(path), dst, max_bytes=max_bytes, links=links),
        )

    def snapshot(self, name: str | None = None, *, timeout: float = SNAPSHOT_SECONDS) -> Snapshot:
        """Keep the file system as it is now, for ``sandbox_factory(snapshot=...)``, until the end of the run.

        Args:
            name: what it is called behind the run's id; any text.
            timeout: seconds until it must be ready.

        Raises:
            SnapshotFailedError: it failed, or was not ready in time.
            ApiError: the server refuses: 501 or 409 where it has no snapshots.
            TransportError: the server does not answer.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
        """
        self._check_open()
        with self._agent.explaining_failures():
            return take_snapshot(self._lifecycle, self.id, name, timeout=timeout)

    def pause(self, *, timeout: float = PAUSE_SECONDS) -> None:
        """Freeze the sandbox, and return when it is frozen; its lease is kept.

        Docker and the embedded server stop its processes where they are. Kubernetes keeps its files only, as an image.

        Args:
            timeout: seconds that it may take.

        Raises:
            PauseError: it is paused already, runs on instead, or was not paused in time.
            SandboxFailedError: it ended.
            ApiError: the server refuses, or cannot do it.
            TransportError: the server does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        self._check_open()
        client = self._lifecycle.client
        client.pause(self.id)
        self._paused = True
        try:
            client.wait_paused(self.id, timeout=timeout)
        except PauseError as exc:
            self._paused = exc.state != "Running"
            raise

    def resume(self, *, timeout: float | None = None) -> None:
        """Let a paused sandbox run again, and return when commands can run in it; its address may be another.

        Args:
            timeout: seconds that it may take; default ``--opensandbox-ready-timeout``.

        Raises:
            ConflictError: it is not paused.
            SandboxFailedError: it ended.
            ReadyTimeoutError: it was not ready in time.
            ApiError: the server refuses, or cannot do it.
            TransportError: the server does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        self._check_open(paused=True)
        client = self._lifecycle.client
        client.resume(self.id)
        seconds = self._lifecycle.ready_timeout if timeout is None else timeout
        _, endpoint = client.wait_ready_endpoint(self.id, timeout=seconds)
        self._agent.move(endpoint)
        self._paused = False

    def close(self) -> None:
        """Delete the sandbox; a second call does nothing, nor does one in a fork of the process that made it.

        Raises:
            ApiError: the server refuses; the sweep at the end of the run tries again.
            TransportError: the server does not answer; its lease ends it.
        """
        if os.getpid() != self._process:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._lifecycle.delete(self.id)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} image={self.image} {self.state}>"

    def _check_open(self, *, paused: bool = False) -> None:
        """Refuse a call on a closed sandbox, and on a paused one unless the call may be made then."""
        if self._closed:
            raise SandboxClosedError(self.id)
        if self._paused and not paused:
            raise PauseError(self.id, "is paused; resume() it first", state="Paused")
