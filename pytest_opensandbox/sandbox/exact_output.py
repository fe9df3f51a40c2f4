"""Commands whose output arrives byte for byte, although the agent's events carry only lines.

The agent drops the final newline, turns carriage returns into line breaks and replaces bytes that are not UTF-8.
So the sandbox keeps both streams in files, and reports short ones in base64: one round trip for most commands.
Longer streams are downloaded, the middle left out beyond the cap.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.errors import (
    CommandLostError,
    CommandTimeoutError,
    NotFoundError,
    OpenSandboxError,
    SharedAgentError,
    TransportError,
)
from pytest_opensandbox.sandbox.capture_script import (
    DIRECTORIES,
    INLINE_BYTES,
    NO_FILES,
    REFUSAL,
    REFUSAL_EXIT_CODE,
    Invocation,
    guarded,
)
from pytest_opensandbox.text import brief
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.retry import retry_idempotent, time_limit

# The sandbox's shell may write something of its own before the report and behind it.
_REPORT = re.compile(rb"^([0-9]{1,3})\n1\+(\S*)\n2\+(\S*)$", re.MULTILINE)
_REPORT_BYTES = 4 * INLINE_BYTES
_NO_FILES_LINE = f"\n{NO_FILES}\n".encode()
_STREAMS = (1, 2)
# Two megabits per second: the lowest speed at which input and output are waited for.
_LOWEST_BYTES_PER_SECOND = 256 * 1024


class _Report(NamedTuple):
    """What the script reports of the command; None where it could not, as after a time limit."""

    exit_code: int | None = None
    stdout: bytes | None = None
    stderr: bytes | None = None

    @classmethod
    def read(cls, output: bytes) -> _Report:
        found = _REPORT.search(output)
        return cls(int(found[1]), _decoded(found[2]), _decoded(found[3])) if found else cls()


class _Stream(NamedTuple):
    """What is kept of one stream."""

    content: bytes
    truncated: bool = False

    @classmethod
    def cut(cls, content: bytes, max_bytes: int) -> _Stream:
        half = max_bytes // 2
        return cls(content) if len(content) <= max_bytes else cls(content[:half] + content[-half:], truncated=True)


def run_exact(client: Client, endpoint: Endpoint, invocation: Invocation) -> CommandResult:
    """Run a command and return exactly what it wrote.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        invocation: what to run.

    Returns:
        The result with ``exact=True``; with ``exact=False`` from the agent's line events where the sandbox has no
        writable /tmp, or no ``cat``.

    Raises:
        CommandTimeoutError: the agent did not end it in time, so we did; holds what it had written.
        CommandStartError: the agent could not start it.
        SharedAgentError: another sandbox answers; nothing was run.
        CommandLostError: the connection ended before the command did, or before what it wrote had been fetched.
        TransportError: the agent does not answer; with ``unsent``, the command did not run.

    Source: tests/sandbox/test_exact_output.py with opensandbox-server 1.1.1, execd 1.0.19 and execd's main branch of
    2026-07-29, which is older than its 1.1.0; run on 2026-11-23 with the programs of Debian 12 and of BusyBox 1.35.
    """
    name = _private_name()
    files = _StreamFiles(client, endpoint, name, invocation.max_bytes)
    with _stdin_file(client, endpoint, invocation, name) as stdin:
        try:
            outer = client.run_command(
                endpoint,
                guarded(invocation.capturing_script(stdin, name), endpoint.sandbox_id),
                cwd=invocation.agent_cwd,
                env=invocation.agent_env,
                uid=invocation.uid,
                gid=invocation.gid,
                timeout=invocation.timeout,
                max_bytes=max(invocation.max_bytes, _REPORT_BYTES),
                shown_as=invocation.command,
            )
        except CommandTimeoutError as exc:
            raise _with_output(exc, files) from None
        _check_owner(outer)
        try:
            return _exact_result(outer, files)
        except TransportError as exc:
            # Not as it came: a caller that sees that nothing was sent would run the command again.
            raise _lost(outer, f"it ended, and then what it wrote could not be fetched ({exc})") from exc


def run_live(client: Client, endpoint: Endpoint, invocation: Invocation) -> CommandResult:
    """Run a command and pass its lines to its callbacks while it runs; the result is made of the agent's line events.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        invocation: what to run.

    Returns:
        The result with ``exact=False``.

    Raises:
        CommandTimeoutError: the agent did not end it in time, so we did; holds what it had written.
        CommandStartError: the agent could not start it.
        CommandLostError: the connection ended before the command did.
        TransportError: the agent does not answer.
    """
    with _stdin_file(client, endpoint, invocation, _private_name()) as stdin:
        return client.run_command(
            endpoint,
            invocation.plain_script(stdin),
            cwd=invocation.agent_cwd,
            env=invocation.env,
            uid=invocation.uid,
            gid=invocation.gid,
            timeout=invocation.timeout,
            on_stdout=invocation.on_stdout,
            on_stderr=invocation.on_stderr,
            max_bytes=invocation.max_bytes,
            shown_as=invocation.command,
        )


class _StreamFiles:
    """The two files in a sandbox that hold what one command writes.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        name: beginning of the names of the files.
        max_bytes: most that is fetched of each; the middle of a longer one is left out.
    """

    def __init__(self, client: Client, endpoint: Endpoint, name: str, max_bytes: int) -> None:
        self.client = client
        self.max_bytes = max_bytes
        self._endpoint = endpoint
        self._name = name

    def complete(self, report: _Report) -> list[_Stream]:
        """Return both streams: what the report holds, else what is in the files, which are removed.

        Raises:
            NotFoundError: a file is gone, although the report says that it holds a stream.
        """
        optional = report.exit_code is None
        try:
            return [
                self._fetch(number, optional=optional) if known is None else _Stream.cut(known, self.max_bytes)
                for number, known in zip(_STREAMS, (report.stdout, report.stderr), strict=True)
            ]
        finally:
            if None in report:
                _remove_quietly(
                    self.client, self._endpoint, *(path for number in _STREAMS for path in self._at(number))
                )

    def _fetch(self, number: int, *, optional: bool) -> _Stream:
        for path in self._at(number):
            try:
                with time_limit(self.client.timeouts.fetch_seconds):
                    size = self.client.files_info(self._endpoint, [path])[path].size
                if size <= self.max_bytes:
                    return _Stream(self._read(path, 0, size))
                half = self.max_bytes // 2
                return _Stream(self._read(path, 0, half) + self._read(path, size - half, size), truncated=True)
            except NotFoundError:
                continue
        if optional:
            return _Stream(b"")
        raise NotFoundError(404, message=f"{self._name}.{number} is gone")

    def _read(self, path: str, start: int, end: int) -> bytes:
        if start == end:
            return b""

        def read() -> bytes:
            with self.client.download_file(self._endpoint, path, byte_range=(start, end), known_file=True) as download:
                return download.read()

        with time_limit(_seconds_for(self.client, end - start)):
            return retry_idempotent(read, timeouts=self.client.timeouts)

    def _at(self, number: int) -> list[str]:
        """Return the paths that a stream's file may have."""
        return [f"{directory}/{self._name}.{number}" for directory in DIRECTORIES]


def _check_owner(outer: CommandResult) -> None:
    """Refuse the result of a guarded script that another sandbox's agent was given.

    Raises:
        SharedAgentError: it was; nothing was run.
    """
    if outer.exit_code == REFUSAL_EXIT_CODE and outer.stdout.startswith(REFUSAL):
        raise SharedAgentError(outer.sandbox_id, other_id=outer.stdout.removeprefix(REFUSAL).strip()[:200])


def _exact_result(outer: CommandResult, files: _StreamFiles) -> CommandResult:
    """Turn the result of the script into the command's own."""
    _, no_files, output = (b"\n%b\n" % outer.stdout_bytes).partition(_NO_FILES_LINE)
    if no_files:
        stdout = _Stream.cut(output.removesuffix(b"\n"), files.max_bytes)
        return replace(outer, stdout_bytes=stdout.content, truncated=outer.truncated or stdout.truncated)
    report = _Report.read(outer.stdout_bytes)
    try:
        stdout, stderr = files.complete(report)
    except NotFoundError:
        raise _lost(outer, "what it wrote was removed from the sandbox before it could be read") from None
    return replace(
        outer,
        stdout_bytes=stdout.content,
        stderr_bytes=stderr.content,
        truncated=stdout.truncated or stderr.truncated,
        exact=True,
        **_ending(outer, report.exit_code),
    )


def _decoded(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _ending(outer: CommandResult, reported: int | None) -> dict[str, Any]:
    """Return how the command ended: the shell writes a line about a child that a signal ended.

    It writes none for SIGINT and SIGPIPE, so those stay the exit codes 130 and 141.
    """
    if reported is None and outer.exit_code == 0:
        raise _lost(outer, "the shell around it was ended before it could report how the command ended")
    exit_code = outer.exit_code if reported is None else reported
    if outer.signal or exit_code <= 128 or not outer.stderr_bytes:
        return {"exit_code": exit_code}
    try:
        return {"exit_code": 128 - exit_code, "signal": signal.Signals(exit_code - 128).name}
    except ValueError:
        return {"exit_code": exit_code}


def _lost(outer: CommandResult, why: str) -> CommandLostError:
    return CommandLostError(f"{brief(outer.command)}: {why}", command_id=outer.command_id, sandbox_id=outer.sandbox_id)


def _with_output(error: CommandTimeoutError, files: _StreamFiles) -> CommandTimeoutError:
    """Return the error with what the command had written, if the agent that missed its time limit still answers."""
    try:
        with time_limit(files.client.timeouts.last_output_seconds):
            stdout, stderr = files.complete(_Report())
    except OpenSandboxError:
        return error
    return CommandTimeoutError(
        error.command,
        timeout_seconds=error.timeout_seconds,
        stdout=stdout.content.decode("utf-8", "replace"),
        stderr=stderr.content.decode("utf-8", "replace"),
        sandbox_id=error.sandbox_id,
    )


def _private_name() -> str:
    return f".opensandbox-{secrets.token_hex(8)}"


@contextmanager
def _stdin_file(client: Client, endpoint: Endpoint, invocation: Invocation, name: str) -> Iterator[str]:
    """Yield the path of a file in the sandbox that holds the standard input."""
    if invocation.stdin is None:
        yield "/dev/null"
        return
    path = f"{DIRECTORIES[0]}/{name}.in"
    # Another user's command must be able to read it; the name cannot be guessed.
    mode = 0o600 if invocation.uid is None else 0o644
    with time_limit(_seconds_for(client, len(invocation.stdin))):
        client.upload_files(endpoint, [FileUpload(path, invocation.stdin, mode)])
    try:
        yield path
    finally:
        _remove_quietly(client, endpoint, path)


def _seconds_for(client: Client, size: int) -> float:
    return client.timeouts.fetch_seconds + size / _LOWEST_BYTES_PER_SECOND


def _remove_quietly(client: Client, endpoint: Endpoint, *paths: str) -> None:
    """Remove files; a sandbox that cannot do it any more must not hide the command's result."""
    try:
        with time_limit(client.timeouts.tidy_seconds):
            client.remove_files(endpoint, paths)
    except OpenSandboxError:
        return
