"""Runs a command so that what it wrote arrives byte for byte, although the agent's events carry only lines.

The agent drops the final newline, turns carriage returns into line breaks and replaces bytes that are not UTF-8.
So the sandbox keeps both streams in files, and hands over in base64 what is short: one round trip for most commands.
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
from pytest_opensandbox.client.command_run import Callback
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

_REPORT = re.compile(r"^([0-9]{1,3})\n1\+(\S*)\n2\+(\S*)$", re.MULTILINE)
_REPORT_BYTES = 4 * INLINE_BYTES
# Two megabits per second: the lowest speed at which input and output are waited for.
_LOWEST_BYTES_PER_SECOND = 256 * 1024


class _Report(NamedTuple):
    """What the script around a command says of it; None is what it could not say, as after a time limit."""

    exit_code: int | None
    stdout: bytes | None
    stderr: bytes | None


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
    with _stdin_file(client, endpoint, invocation, f"{DIRECTORIES[0]}/{name}.in") as stdin:
        try:
            outer = client.run_command(
                endpoint,
                guarded(invocation.keeping_script(stdin, name), endpoint.sandbox_id),
                cwd=invocation.agent_cwd,
                env=invocation.agent_env,
                uid=invocation.uid,
                gid=invocation.gid,
                timeout=invocation.timeout,
                max_bytes=max(invocation.max_bytes, _REPORT_BYTES),
                shown_as=invocation.command,
            )
        except CommandTimeoutError as exc:
            raise _with_output(client, endpoint, exc, name, invocation.max_bytes) from None
        _check_owner(outer)
        try:
            return _collect(client, endpoint, outer, name, invocation.max_bytes)
        except TransportError as exc:
            # Not as it came: who sees that nothing was sent would run the command again.
            raise _lost(outer, f"it ended, and then what it wrote could not be fetched ({exc})") from exc


def run_live(
    client: Client,
    endpoint: Endpoint,
    invocation: Invocation,
    *,
    on_stdout: Callback | None,
    on_stderr: Callback | None,
) -> CommandResult:
    """Run a command and hand on its lines while it runs; the result is made of the agent's line events.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        invocation: what to run.
        on_stdout: called with each line of standard output, without its end.
        on_stderr: called with each line of standard error.

    Returns:
        The result with ``exact=False``.

    Raises:
        CommandTimeoutError: the agent did not end it in time, so we did; holds what it had written.
        CommandStartError: the agent could not start it.
        CommandLostError: the connection ended before the command did.
        TransportError: the agent does not answer.
    """
    with _stdin_file(client, endpoint, invocation, f"{DIRECTORIES[0]}/{_private_name()}.in") as stdin:
        return client.run_command(
            endpoint,
            invocation.plain_script(stdin),
            cwd=invocation.agent_cwd,
            env=invocation.env,
            uid=invocation.uid,
            gid=invocation.gid,
            timeout=invocation.timeout,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            max_bytes=invocation.max_bytes,
            shown_as=invocation.command,
        )


def _check_owner(result: CommandResult) -> None:
    """Refuse the result of a guarded script that another sandbox's agent was given.

    Raises:
        SharedAgentError: it was; nothing was run.
    """
    if result.exit_code == REFUSAL_EXIT_CODE and result.stdout.startswith(REFUSAL):
        raise SharedAgentError(result.sandbox_id, other_id=result.stdout.removeprefix(REFUSAL).strip()[:200])


def _private_name() -> str:
    return f".opensandbox-{secrets.token_hex(8)}"


@contextmanager
def _stdin_file(client: Client, endpoint: Endpoint, invocation: Invocation, path: str) -> Iterator[str]:
    """Yield the name of a file in the sandbox that holds the standard input."""
    if invocation.stdin is None:
        yield "/dev/null"
        return
    # Another user's command must be able to read it; the name cannot be guessed.
    mode = 0o600 if invocation.uid is None else 0o644
    with time_limit(_seconds_for(client, len(invocation.stdin))):
        client.upload_files(endpoint, [FileUpload(path, invocation.stdin, mode)])
    try:
        yield path
    finally:
        _tidy(client, endpoint, path)


def _collect(client: Client, endpoint: Endpoint, outer: CommandResult, name: str, max_bytes: int) -> CommandResult:
    """Turn the script's report into the command's own result."""
    _, unkept, rest = f"\n{outer.stdout}\n".partition(f"\n{NO_FILES}\n")
    if unkept:
        kept, cut = _without_middle(rest.removesuffix("\n").encode(), max_bytes)
        return replace(outer, stdout_bytes=kept, truncated=outer.truncated or cut)
    report = _read_report(outer.stdout)
    try:
        (stdout, stdout_cut), (stderr, stderr_cut) = _streams(client, endpoint, report, name, max_bytes)
    except NotFoundError:
        raise _lost(outer, "what it wrote was removed from the sandbox before it could be read") from None
    return replace(
        outer,
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        truncated=stdout_cut or stderr_cut,
        exact=True,
        **_ending(outer, report.exit_code),
    )


def _read_report(text: str) -> _Report:
    # What a shell of the sandbox says of its own accord may stand before and behind it.
    found = _REPORT.search(text)
    if found is None:
        return _Report(None, None, None)
    return _Report(int(found[1]), _decoded(found[2]), _decoded(found[3]))


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _ending(outer: CommandResult, reported: int | None) -> dict[str, Any]:
    """Tell a signal from an exit code above 128: the shell writes a line about a child that a signal ended.

    It writes none for SIGINT and SIGPIPE, so those stay the exit codes 130 and 141.
    """
    if reported is None and outer.exit_code == 0:
        raise _lost(outer, "the shell around it was ended before it could tell how the command ended")
    exit_code = outer.exit_code if reported is None else reported
    if outer.signal or exit_code <= 128 or not outer.stderr_bytes:
        return {"exit_code": exit_code}
    try:
        return {"exit_code": 128 - exit_code, "signal": signal.Signals(exit_code - 128).name}
    except ValueError:
        return {"exit_code": exit_code}


def _lost(outer: CommandResult, why: str) -> CommandLostError:
    return CommandLostError(f"{brief(outer.command)}: {why}", command_id=outer.command_id, sandbox_id=outer.sandbox_id)


def _streams(
    client: Client, endpoint: Endpoint, report: _Report, name: str, max_bytes: int
) -> list[tuple[bytes, bool]]:
    """Return both streams, each with whether its middle was left out."""
    numbers = (1, 2)
    try:
        return [
            _without_middle(content, max_bytes)
            if content is not None
            else _fetch(client, endpoint, f"{name}.{number}", max_bytes, may_be_gone=report.exit_code is None)
            for number, content in zip(numbers, (report.stdout, report.stderr), strict=True)
        ]
    finally:
        if None in report:
            _tidy(client, endpoint, *(f"{place}/{name}.{number}" for place in DIRECTORIES for number in numbers))


def _with_output(
    client: Client, endpoint: Endpoint, error: CommandTimeoutError, name: str, max_bytes: int
) -> CommandTimeoutError:
    """Return the error with what had been written, where the agent that did not keep the time can still tell."""
    try:
        with time_limit(client.timeouts.last_output_seconds):
            (stdout, _), (stderr, _) = _streams(client, endpoint, _Report(None, None, None), name, max_bytes)
    except OpenSandboxError:
        return error
    return CommandTimeoutError(
        error.command,
        timeout_seconds=error.timeout_seconds,
        stdout=stdout.decode("utf-8", "replace"),
        stderr=stderr.decode("utf-8", "replace"),
        sandbox_id=error.sandbox_id,
    )


def _fetch(client: Client, endpoint: Endpoint, name: str, max_bytes: int, *, may_be_gone: bool) -> tuple[bytes, bool]:
    """Download one stream, without its middle where it is longer than ``max_bytes``."""
    for path in (f"{place}/{name}" for place in DIRECTORIES):
        try:
            with time_limit(client.timeouts.fetch_seconds):
                size = client.files_info(endpoint, [path])[path].size
            if size <= max_bytes:
                return _read(client, endpoint, path, (0, size)), False
            half = max_bytes // 2
            head = _read(client, endpoint, path, (0, half))
            return head + _read(client, endpoint, path, (size - half, size)), True
        except NotFoundError:
            continue
    if may_be_gone:
        return b"", False
    raise NotFoundError(404, message=f"{name} is gone")


def _read(client: Client, endpoint: Endpoint, path: str, span: tuple[int, int]) -> bytes:
    if span[0] == span[1]:
        return b""

    def read() -> bytes:
        with client.download_file(endpoint, path, byte_range=span, known_file=True) as download:
            return download.read()

    with time_limit(_seconds_for(client, span[1] - span[0])):
        return retry_idempotent(read, timeouts=client.timeouts)


def _seconds_for(client: Client, size: int) -> float:
    return client.timeouts.fetch_seconds + size / _LOWEST_BYTES_PER_SECOND


def _without_middle(content: bytes, max_bytes: int) -> tuple[bytes, bool]:
    half = max_bytes // 2
    return (content, False) if len(content) <= max_bytes else (content[:half] + content[-half:], True)


def _tidy(client: Client, endpoint: Endpoint, *paths: str) -> None:
    """Remove what was in the way; a sandbox that cannot do it any more must not hide the command's result."""
    try:
        with time_limit(client.timeouts.tidy_seconds):
            client.remove_files(endpoint, paths)
    except OpenSandboxError:
        return
