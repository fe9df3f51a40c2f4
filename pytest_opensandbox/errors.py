"""Every exception and warning of the package, and the facts that each one carries.

OpenSandboxError
├── ConfigError                    a value that breaks a rule: field, rule
├── ServerStartError               the server process for ``embedded`` or ``docker`` did not start
├── TransportError                 no response: method, url, timed_out, unsent
├── ApiError                       a response that is not 2xx: status, code, message, request_id
│   ├── AuthError                  401, 403
│   ├── NotFoundError              404
│   └── ConflictError              409
├── ProtocolError                  a 2xx response that breaks the specification
├── FileTooLargeError              more bytes than the caller allowed: path, size_bytes, max_bytes
├── UnsafeArchiveError             an archive from a sandbox that is not safe to extract: member
├── SandboxError                   about one sandbox: sandbox_id
│   ├── SandboxFailedError         went to Failed or Terminated while waiting: state, reason, message, logs
│   ├── ReadyTimeoutError          also a TimeoutError: waited_seconds, attempts, last_state
│   ├── CommandError               did not exit with 0: command, exit_code, stdout, stderr
│   │   ├── CommandTimeoutError    also a TimeoutError: timeout_seconds
│   │   ├── CommandStartError      never ran: no shell, an identity that cannot be taken
│   │   └── SetupError             a setup command did not exit with 0: source, why, repeated
│   ├── ServiceTimeoutError        also a TimeoutError: a process, port or log that was waited for: awaited
│   ├── CommandLostError           the response ended before the command did: command_id
│   ├── SharedAgentError           the agent of another sandbox responds: other_id
│   ├── SandboxGoneError           ended while it was used: why, state, logs
│   ├── SnapshotFailedError        a snapshot did not become Ready: snapshot_id, state, reason, message
│   ├── PauseError                 used while paused, or did not become paused: state
│   └── SandboxClosedError         used after close()
└── SweepError                     could not delete: sandbox_ids

OpenSandboxWarning (a UserWarning)
├── LeakWarning                    sandboxes may still be running
├── SlowSandboxWarning             a test waits for its sandbox; sent from an xdist worker
└── SkippedFileWarning             a device, socket or FIFO that was not copied
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any

from pytest_opensandbox.advice import gone_advice, setup_advice
from pytest_opensandbox.text import Printable, brief, counted, section, tail

Command = str | Sequence[str]


class OpenSandboxError(Printable, Exception):
    """Root of everything that this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The facts travel with the text: xdist and process pools pickle exceptions.
        # typeshed does not list __newobj__.
        return copyreg.__newobj__, (type(self),), {**self.__dict__, "args": self.args}  # type: ignore[attr-defined]


class ConfigError(OpenSandboxError, ValueError):
    """A value that breaks a rule; mostly found before anything is sent.

    Attributes:
        field: the option, argument or key that holds the value.
        rule: the rule, as a phrase that follows "must".
    """

    def __init__(self, field: str, rule: str, value: object = None) -> None:
        self.field, self.rule = field, rule
        super().__init__(f"{field} must {rule}; got {brief(value)}")


class ServerStartError(OpenSandboxError):
    """The server process for this run did not start; the text says what to use instead."""


class TransportError(OpenSandboxError):
    """No complete response: the connection was refused, reset or cut, or timed out.

    Attributes:
        method, url: the request, without credentials.
        timed_out: whether a time limit passed, so that a retry would take as long again.
        unsent: whether no attempt got a connection, so that the server certainly did nothing.
    """

    def __init__(self, message: str, *, method: str, url: str, timed_out: bool = False, unsent: bool = False) -> None:
        self.method, self.url, self.timed_out, self.unsent = method, url, timed_out, unsent
        super().__init__(f"{message} ({method} {url})")


class ApiError(OpenSandboxError):
    """The server or the agent sent a response that is not 2xx.

    Attributes:
        status: HTTP status, 300 … 599.
        code: the server's own code such as ``DOCKER::SANDBOX_NOT_FOUND``, or "".
        message: the server's text, at most 2,000 characters.
        request_id: value of ``X-Request-ID``, or "".
        method, url: the request, without credentials.
        retry_after_seconds: how long the server asks to wait, or None.
    """

    def __init__(
        self,
        status: int,
        *,
        code: str = "",
        message: str = "",
        request_id: str = "",
        method: str = "",
        url: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        self.status, self.code, self.message, self.request_id = status, code, message, request_id
        self.method, self.url, self.retry_after_seconds = method, url, retry_after_seconds
        # The message comes first, because pytest's summary shows the beginning.
        facts = (f"{status} {code}".rstrip(), f"{method} {url}".strip(), request_id and f"request {request_id}")
        super().__init__(f"{message or 'no message'} ({', '.join(fact for fact in facts if fact)})")


class AuthError(ApiError):
    """401 or 403: the key is missing, wrong or not allowed; another key may help, a retry does not."""


class NotFoundError(ApiError):
    """404: no such sandbox, file, command or route."""


class ConflictError(ApiError):
    """409: the operation is not possible in the current state."""


class ProtocolError(OpenSandboxError):
    """A 2xx response whose content breaks the specification."""


class FileTooLargeError(OpenSandboxError):
    """A file is longer than the caller allowed.

    Attributes:
        path: path inside the sandbox.
        size_bytes, max_bytes: its length, and the limit.
    """

    def __init__(self, path: str, *, size_bytes: int, max_bytes: int) -> None:
        self.path, self.size_bytes, self.max_bytes = path, size_bytes, max_bytes
        super().__init__(f"{path} has {counted(size_bytes, 'byte')}, the limit is {max_bytes:,}: raise max_bytes")


class UnsafeArchiveError(OpenSandboxError):
    """An archive from a sandbox is refused as unsafe or too large; ``member`` is the name of the entry in it."""

    def __init__(self, member: str, why: str) -> None:
        self.member = member
        super().__init__(f"refused to extract {member!r}: {why}; nothing was copied, remove it or get single files")


class SandboxError(OpenSandboxError):
    """An error about one sandbox; ``sandbox_id`` is its id, "" where only an endpoint is known."""

    def __init__(self, message: str, *, sandbox_id: str = "") -> None:
        self.sandbox_id = sandbox_id
        super().__init__(message)


class SandboxFailedError(SandboxError):
    """The sandbox ended before it became ready.

    Attributes:
        state: ``Failed``, ``Terminated`` or another final state.
        reason, message: the server's code, such as ``CONTAINER_EXITED_ERROR``, and its text.
        logs: the last lines of the sandbox's own log, or "".
    """

    def __init__(self, *, sandbox_id: str, state: str, reason: str = "", message: str = "", logs: str = "") -> None:
        self.state, self.reason, self.message, self.logs = state, reason, message, logs
        why = ": ".join(part for part in (reason, message) if part) or "the server gives no reason"
        text = f"sandbox {sandbox_id} went to {state} instead of becoming ready ({why})"
        super().__init__(text + section("its log ends with", logs), sandbox_id=sandbox_id)


class ReadyTimeoutError(SandboxError, TimeoutError):
    """The sandbox was not ready in time.

    Attributes:
        waited_seconds, attempts: the length of the wait, and the number of polls.
        last_state: the lifecycle state at the last poll, or "".
    """

    def __init__(
        self, *, sandbox_id: str, waited_seconds: float, attempts: int, last_state: str = "", last_error: str = ""
    ) -> None:
        self.waited_seconds, self.attempts, self.last_state = waited_seconds, attempts, last_state
        text = (
            f"sandbox {sandbox_id} was not ready after {waited_seconds:.1f} s and {counted(attempts, 'poll')}"
            f" (last state {last_state or 'unknown'}{'; ' + last_error if last_error else ''});"
            " raise --opensandbox-ready-timeout if the image needs longer"
        )
        super().__init__(text, sandbox_id=sandbox_id)


class CommandError(SandboxError):
    """A command did not exit with 0.

    Attributes:
        command: text for the shell, or the argument list.
        exit_code: 0 … 255, or minus the signal number, as ``subprocess`` says it.
        stdout, stderr: captured text; the message shows the tails.
    """

    def __init__(
        self,
        command: Command,
        *,
        exit_code: int,
        stdout: str = "",
        stderr: str = "",
        sandbox_id: str = "",
        outcome: str = "",
    ) -> None:
        self.command, self.exit_code, self.stdout, self.stderr = command, exit_code, stdout, stderr
        text = f"{brief(command)} {outcome or f'exited with {exit_code}'}"
        super().__init__(text + section("stdout", stdout) + section("stderr", stderr), sandbox_id=sandbox_id)


class CommandTimeoutError(CommandError, TimeoutError):
    """A command was killed after its ``timeout_seconds``; stdout and stderr hold its output so far."""

    def __init__(
        self, command: Command, *, timeout_seconds: float, stdout: str = "", stderr: str = "", sandbox_id: str = ""
    ) -> None:
        self.timeout_seconds = timeout_seconds
        advice = "raise timeout=, or redirect the output of processes that it leaves running"
        why = f"was ended after {timeout_seconds:g} s, its time limit: {advice}"
        super().__init__(command, exit_code=-9, stdout=stdout, stderr=stderr, sandbox_id=sandbox_id, outcome=why)


class CommandStartError(CommandError):
    """A command never ran: the agent could not start a process for it."""

    def __init__(self, command: Command, *, why: str, sandbox_id: str = "") -> None:
        super().__init__(command, exit_code=-1, sandbox_id=sandbox_id, outcome=f"could not be started: {tail(why)}")


class SetupError(CommandError):
    """A setup command did not exit with 0. It is not run again, so every test that needs it fails.

    Attributes:
        source: the image, snapshot or pool that the sandbox was made from.
        why: how the command ended, in words.
        repeated: whether an earlier error had the output, so that the text of this one leaves it out.
    """

    def __init__(
        self,
        command: Command,
        *,
        exit_code: int,
        stdout: str = "",
        stderr: str = "",
        sandbox_id: str = "",
        source: str = "",
        why: str = "",
        repeated: bool = False,
    ) -> None:
        self.source, self.why, self.repeated = source, why or f"exited with {exit_code}", repeated
        advice = ", and is not run again in this run: " + setup_advice(self.why, exit_code, stderr)
        end = " before: see the first error about it in this run" if repeated else advice
        super().__init__(
            command,
            exit_code=exit_code,
            stdout="" if repeated else stdout,
            stderr="" if repeated else stderr,
            sandbox_id=sandbox_id,
            outcome=f"{self.why} as setup of the sandboxes from {source}{end}",
        )
        self.stdout, self.stderr = stdout, stderr


class ServiceTimeoutError(SandboxError, TimeoutError):
    """What a test waited for in a sandbox did not come in time, or cannot come any more; ``awaited`` says what."""

    def __init__(self, awaited: str, *, why: str, stdout: str = "", stderr: str = "", sandbox_id: str = "") -> None:
        self.awaited = awaited
        text = f"{awaited}: {why}" + section("stdout", stdout) + section("stderr", stderr)
        super().__init__(text, sandbox_id=sandbox_id)


class CommandLostError(SandboxError):
    """The end of a command is not known, and it is not run again; ``command_id`` is the agent's, or ""."""

    def __init__(self, message: str, *, command_id: str = "", sandbox_id: str = "") -> None:
        self.command_id = command_id
        super().__init__(message, sandbox_id=sandbox_id)


class SharedAgentError(SandboxError):
    """The agent of another sandbox responds instead of this one's, so nothing is isolated.

    Attributes:
        other_id: the sandbox whose agent responds.
    """

    def __init__(self, sandbox_id: str, *, other_id: str) -> None:
        self.other_id = other_id
        text = (
            f"requests to sandbox {sandbox_id} reach the agent of sandbox {other_id}: on Docker's host network all"
            ' sandboxes share one agent; set network_mode = "bridge" under [docker] in the server\'s configuration'
        )
        super().__init__(text, sandbox_id=sandbox_id)


class SandboxGoneError(SandboxError):
    """A sandbox ended while it was used.

    Attributes:
        why: how it ended, such as ``expired``, ``deleted by someone`` or ``crashed: exit 137, out of memory``.
        state: the last state, such as ``Failed``; "" where the server no longer knows the sandbox.
        logs: the last lines of the sandbox's own log, or "".
    """

    def __init__(self, sandbox_id: str, why: str, *, facts: str = "", state: str = "", logs: str = "") -> None:
        self.why, self.state, self.logs = why, state, logs
        advice = gone_advice(why)
        text = f"sandbox {sandbox_id} is gone, {why}" + "".join(f"; {part}" for part in (facts, advice) if part)
        super().__init__(text + section("its log ends with", logs), sandbox_id=sandbox_id)


class SnapshotFailedError(SandboxError):
    """A snapshot did not become ready.

    Attributes:
        snapshot_id: the server's id, "" where the server refused to begin.
        state: ``Failed``, or the last state before the time limit.
        reason, message: the server's code, such as ``snapshot_runtime_failed``, and its text; "" for none.
    """

    def __init__(
        self, *, sandbox_id: str, snapshot_id: str = "", state: str = "Failed", reason: str = "", message: str = ""
    ) -> None:
        self.snapshot_id, self.state, self.reason, self.message = snapshot_id, state, reason, message
        why = ": ".join(part for part in (reason, message) if part) or "the server gives no reason"
        text = (
            f"snapshot {snapshot_id or '(without an id)'} of sandbox {sandbox_id} is {state}, not Ready ({why}):"
            " look at the server's log and at the free space on its disk"
        )
        super().__init__(text, sandbox_id=sandbox_id)


class PauseError(SandboxError):
    """A sandbox was used while it was paused, or did not become paused; ``state`` is its last state."""

    def __init__(self, sandbox_id: str, why: str, *, state: str) -> None:
        self.state = state
        super().__init__(f"sandbox {sandbox_id} {why}", sandbox_id=sandbox_id)


class SandboxClosedError(SandboxError):
    """A ``Sandbox`` was used after it was closed."""

    def __init__(self, sandbox_id: str) -> None:
        advice = "a sandbox from a test's own body ends with that test, make longer-lived ones in a fixture"
        super().__init__(f"sandbox {sandbox_id} is closed; {advice}", sandbox_id=sandbox_id)


class SweepError(OpenSandboxError):
    """A sweep could not delete some sandboxes; ``sandbox_ids`` are their ids, in the order of the listing."""

    def __init__(self, sandbox_ids: Sequence[str], why: str) -> None:
        self.sandbox_ids = tuple(sandbox_ids)
        count, ids = counted(len(self.sandbox_ids), "sandbox", "sandboxes"), ", ".join(self.sandbox_ids)
        end = "its lease will end it" if len(self.sandbox_ids) == 1 else "their leases will end them"
        super().__init__(f"{count} could not be deleted ({why}), {end}: {ids}")


class OpenSandboxWarning(Printable, UserWarning):
    """Root of the package's warnings."""


class LeakWarning(OpenSandboxWarning):
    """Sandboxes may still be running after the run; the text names them and the end of their lease."""


class SlowSandboxWarning(OpenSandboxWarning):
    """A test waits for its sandbox longer than usual. An xdist worker sends it to the controller; it is not raised."""


class SkippedFileWarning(OpenSandboxWarning):
    """A device, socket or FIFO was not copied."""
