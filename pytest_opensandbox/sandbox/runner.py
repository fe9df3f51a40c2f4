"""Commands in one sandbox by the runner: its delivery, one request, and the result that its report gives.

The runner is a small program that starts a command and reports on its own standard output, in lines that the agent
passes on. Where it cannot run, the agent's line events have to do.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import TypeVar

from pytest_opensandbox.advice import with_start_advice
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.errors import (
    ApiError,
    CommandLostError,
    CommandStartError,
    CommandTimeoutError,
    OpenSandboxError,
    SandboxError,
    SharedAgentError,
)
from pytest_opensandbox.sandbox.line_output import run_by_events
from pytest_opensandbox.sandbox.runner_protocol import (
    VARIABLE,
    Ending,
    Failure,
    Field,
    Invocation,
    Report,
    encode_request,
)
from pytest_opensandbox.text import brief
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.retry import time_limit

DIRECTORIES = ("/var/tmp", "/tmp", "/opt/opensandbox", "/run", "/dev/shm")  # noqa: S108 - in the sandbox
"""Where the runner may lie; the first one that programs can be executed from is taken."""
MACHINES = ("x86_64", "aarch64")
"""Machines that there is a runner for."""

T = TypeVar("T")

_VARIABLE_BYTES = 64 * 1024
_NOISE_BYTES = 4096
# After its own time limit the runner still reads and reports; the agent ends it where it does not.
_REPORT_SECONDS = 3.0
_LEAST_BYTES_A_SECOND = 1024 * 1024
_UNWRITTEN, _SPILLED, _NO_MEMORY = 97, 98, 95
_NOT_EXECUTED = (2, 126, 127)
_ENOENT, _ENOTDIR, _EACCES, _ENOEXEC, _EISDIR = 2, 20, 13, 8, 21


class Runner:
    """Runs commands in one sandbox at one address of its agent.

    Args:
        client: talks to the agent.
        endpoint: the agent.
    """

    def __init__(self, client: Client, endpoint: Endpoint) -> None:
        self._client = client
        self._endpoint = endpoint
        self._path = ""
        self._missing_because = ""
        self._has_workspace = False

    def run(self, invocation: Invocation) -> CommandResult:
        """Run a command and return exactly what it wrote.

        Returns:
            The result with ``exact=True``; from the agent's line events, with ``exact=False`` and the reason, where
            the sandbox lets no program be executed from any directory that can be written.

        Raises:
            CommandStartError: it could not be started.
            CommandTimeoutError: the agent did not end it in time, so we did; holds what it had written.
            CommandLostError: the connection, or the runner, ended before the command did.
            SharedAgentError: another sandbox answers; nothing was run.
            TransportError: the agent does not answer; with ``unsent``, the command did not run.
        """
        result = self._where_it_can_run(lambda path: self._run_at(path, invocation))
        if result is not None:
            self._has_workspace = True
            return result
        if invocation.observer is not None:
            raise self._error_without_runner()
        return run_by_events(self._client, self._endpoint, invocation, because=self._missing_because)

    def ask(self, kind: str, fields: Sequence[Field], *, seconds: float) -> int:
        """Have the runner do something other than to run a command.

        Args:
            kind: what it is to do.
            fields: tags and values of the request.
            seconds: how long it may take.

        Returns:
            The number of the error, as in errno(3); 0 for success.

        Raises:
            CommandLostError: the runner did not report.
            SandboxError: no runner can be executed in the sandbox.
            TransportError: the agent does not answer.
        """
        invocation = Invocation(command=[kind], max_bytes=_NOISE_BYTES)

        def attempt(path: str) -> Failure | Ending | None:
            nonce = secrets.token_hex(8)
            report = Report(nonce, invocation)
            request = encode_request(kind, nonce, self._endpoint.sandbox_id, fields)
            outer = self._execute(path, base64.b64encode(request).decode(), report, invocation, limit=seconds)
            if report.is_empty and outer.exit_code in _NOT_EXECUTED:
                return None
            if report.failure is None and report.ending is None:
                raise _lost(outer, report)
            return report.failure or report.ending

        outcome = self._where_it_can_run(attempt)
        if outcome is None:
            raise self._error_without_runner()
        return outcome.errno if isinstance(outcome, Failure) else 0

    def _error_without_runner(self) -> SandboxError:
        text = f"this needs the runner, which cannot run in the sandbox: {self._missing_because}"
        return SandboxError(text, sandbox_id=self._endpoint.sandbox_id)

    def _where_it_can_run(self, attempt: Callable[[str], T | None]) -> T | None:
        """Return the result of an attempt at the path of the runner; None where it can be executed nowhere.

        Args:
            attempt: returns None where there is no runner that can be executed at a path.
        """
        if self._path and (found := attempt(self._path)) is not None:
            return found
        if not self._missing_because:
            for path in self._deliver():
                if (found := attempt(path)) is not None:
                    self._path = path
                    return found
        return None

    def _deliver(self) -> Iterator[str]:
        """Yield the path of the program in one directory after the other, until the caller has taken one."""
        because = "no program can be executed from " + ", ".join(DIRECTORIES)
        for directory in DIRECTORIES:
            for machine in _machines():
                path = f"{directory}/{_name(machine)}"
                try:
                    program = FileUpload(path, _program(machine), 0o755)
                    self._client.upload_files(self._endpoint, [program], check_sizes=False)
                except ApiError as exc:
                    because = f"the runner cannot be written to {directory} ({exc.message or exc.status})"
                    break
                yield path
        self._missing_because = because

    def _run_at(self, path: str, invocation: Invocation) -> CommandResult | None:
        """Run a command by the runner at a path; None where there is no runner that can be executed."""
        nonce = secrets.token_hex(8)
        report = Report(nonce, invocation)
        output_path = f"{os.path.dirname(path)}/.opensandbox-{nonce}-"
        with self._request(path, invocation, nonce, output_path) as variable:
            try:
                outer = self._execute(path, variable, report, invocation, limit=invocation.timeout)
            except CommandStartError:
                return None
            except CommandTimeoutError as exc:
                raise self._timeout_error(invocation, report) from exc
            except CommandLostError as exc:
                self._read_files(report, output_path)
                if not report.is_whole:
                    raise
                outer = CommandResult(invocation.command, 0, sandbox_id=exc.sandbox_id, command_id=exc.command_id)
        if outer.exit_code == _SPILLED:
            self._read_spilled(report, nonce)
        self._read_files(report, output_path)
        return self._result(outer, invocation, report)

    def _execute(
        self, path: str, variable: str, report: Report, invocation: Invocation, *, limit: float | None
    ) -> CommandResult:
        """Start the runner with a request, and read its report; return how the runner itself ended."""
        return self._client.run_command(
            self._endpoint,
            f"exec {path}",
            env={VARIABLE: variable},
            timeout=None if limit is None else limit + _REPORT_SECONDS,
            on_stdout=report.add_line,
            max_bytes=_NOISE_BYTES,
            shown_as=invocation.command,
        )

    @contextmanager
    def _request(self, path: str, invocation: Invocation, nonce: str, output_path: str) -> Iterator[str]:
        """Yield the value of the variable that carries the request: itself, or where a file has it."""
        request = invocation.request(
            nonce, self._endpoint.sandbox_id, output_path=output_path, makes_workspace=not self._has_workspace
        )
        if len(request) * 4 < _VARIABLE_BYTES * 3:
            yield base64.b64encode(request).decode()
            return
        file = f"{os.path.dirname(path)}/.opensandbox-request-{nonce}"
        try:
            self._client.upload_files(self._endpoint, [FileUpload(file, request, 0o600)], check_sizes=False)
        except ApiError as exc:
            why = with_start_advice(f"its request cannot be written to {file}: {exc.message}")
            raise CommandStartError(invocation.command, why=why, sandbox_id=self._endpoint.sandbox_id) from exc
        try:
            yield f"@{file}"
        except BaseException:
            # The runner removes the file when it begins.
            self._remove_quietly([file])
            raise

    def _result(self, outer: CommandResult, invocation: Invocation, report: Report) -> CommandResult | None:
        """Turn what the runner said into the command's result; None where no runner could be executed."""
        if report.other_sandbox:
            raise SharedAgentError(self._endpoint.sandbox_id, other_id=report.other_sandbox)
        if report.failure is not None:
            return _not_started(outer, invocation, report)
        if report.ending is not None and report.is_whole:
            return _ended(outer, invocation, report)
        if report.is_empty and outer.exit_code in _NOT_EXECUTED:
            return None
        if outer.timed_out:
            raise self._timeout_error(invocation, report)
        raise _lost(outer, report)

    def _read_spilled(self, report: Report, nonce: str) -> None:
        """Read the rest of a report from the file of memory that took it when the disk was full."""
        path = f"/dev/shm/.opensandbox-report-{nonce}"  # noqa: S108 - in the sandbox
        with (
            suppress(OpenSandboxError),
            time_limit(self._client.timeouts.fetch_seconds),
            self._client.download_file(self._endpoint, path) as download,
        ):
            for line in download.read().decode("ascii", "replace").split("\n"):
                report.add_line(line)
        self._remove_quietly([path])

    def _read_files(self, report: Report, output_path: str) -> None:
        """Read the output that was too long for the report; what cannot be read is missed by the report."""
        files = [(f"{output_path}{word}", stream) for word, stream in report.files]
        for path, stream in files:
            with (
                suppress(OpenSandboxError),
                time_limit(self._client.timeouts.fetch_seconds + stream.file_bytes / _LEAST_BYTES_A_SECOND),
                self._client.download_file(self._endpoint, path, known_file=True) as download,
            ):
                stream.add_file(download)
        if files:
            self._remove_quietly([path for path, _ in files])

    def _timeout_error(self, invocation: Invocation, report: Report) -> CommandTimeoutError:
        return CommandTimeoutError(
            invocation.command,
            timeout_seconds=invocation.timeout or 0.0,
            stdout=report.stdout.text(),
            stderr=report.stderr.text(),
            sandbox_id=self._endpoint.sandbox_id,
        )

    def _remove_quietly(self, paths: Sequence[str]) -> None:
        """Remove files; a sandbox that cannot do it any more must not hide the command's result."""
        with suppress(OpenSandboxError), time_limit(self._client.timeouts.tidy_seconds):
            self._client.remove_files(self._endpoint, paths)


def _ended(outer: CommandResult, invocation: Invocation, report: Report) -> CommandResult:
    assert report.ending is not None
    return CommandResult(
        command=invocation.command,
        exit_code=report.ending.exit_code,
        stdout_bytes=report.stdout.content(),
        stderr_bytes=report.stderr.content(),
        duration=outer.duration,
        signal=report.ending.signal,
        timed_out=report.ending.timed_out,
        time_limit=invocation.timeout,
        truncated=report.truncated,
        exact=True,
        sandbox_id=outer.sandbox_id,
        command_id=outer.command_id,
    )


def _not_started(outer: CommandResult, invocation: Invocation, report: Report) -> CommandResult:
    """Return the exit code that a shell gives for a program that is not there or no program.

    Raises:
        CommandStartError: nothing was run for another reason.
    """
    assert report.failure is not None
    stage, errno = report.failure
    why = os.strerror(errno)
    if stage == "exec" and not isinstance(invocation.command, str):
        code = 127 if errno in (_ENOENT, _ENOTDIR) else 126
        if code == 127 or errno in (_EACCES, _ENOEXEC, _EISDIR):
            text = f"{invocation.command[0]}: {'not found' if code == 127 else why}\n".encode()
            return CommandResult(
                command=invocation.command,
                exit_code=code,
                stderr_bytes=text,
                duration=outer.duration,
                time_limit=invocation.timeout,
                exact=True,
                sandbox_id=outer.sandbox_id,
                command_id=outer.command_id,
            )
    shown = {
        "cwd": f"the working directory {invocation.cwd} cannot be entered ({why})",
        "user": f"it cannot run as user {invocation.uid} ({why}); leave uid and gid out, or use an image and a backend"
        " that have that user, as --opensandbox-url docker",
        "exec": f"the sandbox has no shell for text ({why}); run an argument list"
        if isinstance(invocation.command, str) and errno == _ENOENT
        else why,
    }.get(stage, why)
    raise CommandStartError(invocation.command, why=with_start_advice(shown), sandbox_id=outer.sandbox_id)


def _lost(outer: CommandResult, report: Report) -> OpenSandboxError:
    """Return the error for a runner that did not report how the command ended."""
    if report.ending is not None:
        why = "a part of what it wrote did not arrive; a process in the sandbox may have removed the file that held it"
    elif outer.exit_code == _UNWRITTEN:
        why = "the sandbox's disk is full, so that nothing could report how it ended; remove what is not needed"
    elif outer.exit_code == _SPILLED:
        why = "the sandbox's disk is full; the report went to /dev/shm, and could not be fetched from there"
    elif outer.exit_code == _NO_MEMORY:
        why = "the sandbox has no memory left for its output; give it more with resources=, or less to max_bytes="
    elif outer.signal:
        why = (
            f"{outer.signal} ended the program that runs it before that could report; something in the sandbox sent it"
        )
    else:
        why = f"the program that runs it ended with {outer.exit_code} and did not report how the command ended"
    text = f"{brief(outer.command)}: {why}"
    return CommandLostError(text, command_id=outer.command_id, sandbox_id=outer.sandbox_id)


def _machines() -> Sequence[str]:
    """Return the machines that there is a runner for, this one first: most sandboxes run on one of the same kind."""
    own = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    return sorted(MACHINES, key=lambda machine: machine != own)


@cache
def _program(machine: str) -> bytes:
    return files("pytest_opensandbox.runner").joinpath(f"program-{machine}").read_bytes()


@cache
def _name(machine: str) -> str:
    return f".opensandbox-runner-{hashlib.sha256(_program(machine)).hexdigest()[:12]}"
