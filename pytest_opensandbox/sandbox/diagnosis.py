"""The reason why a sandbox has ended, as the server reports it once the agent no longer answers."""

from __future__ import annotations

import re
from datetime import timedelta

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.errors import (
    ApiError,
    CommandLostError,
    NotFoundError,
    OpenSandboxError,
    ProtocolError,
    SandboxGoneError,
    TransportError,
)
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.retry import poll_until_ready, time_limit

# A server reports its time in whole seconds.
_CLOCK = timedelta(seconds=2)
_LOG_CHARACTERS = 4_000
_PASSING_STATUSES = frozenset({502, 503, 504})
_NO_FILE = "FILE_NOT_FOUND"
_EXIT_CODE = re.compile(r"\bcode:?\s+(\d{1,3})\b", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"\boom|out.of.memory", re.IGNORECASE)


def may_be_gone(error: OpenSandboxError) -> bool:
    """Return whether the end of a sandbox may have caused an error."""
    if isinstance(error, NotFoundError):
        return not error.code.endswith(_NO_FILE)
    if isinstance(error, ApiError):
        return error.status in _PASSING_STATUSES
    return isinstance(error, (CommandLostError, ProtocolError, TransportError))


def diagnose(client: Client, endpoint: Endpoint) -> SandboxGoneError | None:
    """Return the error that says why a sandbox has ended; None if it lives, or if the server cannot say.

    Args:
        client: talks to the server and the agent.
        endpoint: the last known address of the agent.
    """

    def ask() -> tuple[SandboxGoneError | None] | None:
        try:
            sandbox = client.get_sandbox(endpoint.sandbox_id)
        except NotFoundError:
            return (_vanished(client, endpoint.sandbox_id),)
        if sandbox.is_final:
            return (_ended(client, sandbox),)
        return (None,) if not sandbox.is_running or _answers(client, endpoint) else None

    def give_up(waited_seconds: float, attempts: int) -> Exception:
        return OpenSandboxError("it runs, and its agent does not answer")

    try:
        with time_limit(client.timeouts.diagnosis_seconds):
            # The server may report Running for a moment after the sandbox has ended.
            budget = client.timeouts.noticing_seconds
            return poll_until_ready(ask, budget_seconds=budget, on_timeout=give_up, timeouts=client.timeouts)[0]
    except OpenSandboxError:
        return None


def _answers(client: Client, endpoint: Endpoint) -> bool:
    try:
        client.ping(endpoint, timeout=client.timeouts.first_ping_seconds)
    except OpenSandboxError:
        return False
    return True


def _vanished(client: Client, sandbox_id: str) -> SandboxGoneError:
    """Return the error for a sandbox that the server no longer knows."""
    end, now = client.known_end(sandbox_id), client.server_time()
    if end is None:
        return SandboxGoneError(sandbox_id, "deleted by someone")
    if end <= now + _CLOCK:
        return SandboxGoneError(sandbox_id, "expired", facts=f"its time was up at {end:%H:%M:%S %Z}")
    left = (end - now).total_seconds()
    return SandboxGoneError(sandbox_id, "deleted by someone", facts=f"{left:.0f} s before its time was up")


def _ended(client: Client, sandbox: SandboxResponse) -> SandboxGoneError:
    """Return the error for a sandbox that has ended by itself, or is being deleted."""
    if sandbox.is_stopping:
        facts = "the server is stopping it"
        return SandboxGoneError(sandbox.id, "deleted by someone", facts=facts, state=sandbox.state)
    events = _diagnostics(client, sandbox.id, events=True)
    found = _EXIT_CODE.search(f"{sandbox.message}\n{events}")
    exited = f"exit {found[1]}" if found else sandbox.why or "the server gives no reason"
    memory = ", out of memory" if _OUT_OF_MEMORY.search(f"{sandbox.why}\n{events}") else ""
    verb = "ended" if sandbox.state == "Terminated" else "crashed"
    logs = _diagnostics(client, sandbox.id)[-_LOG_CHARACTERS:]
    return SandboxGoneError(sandbox.id, f"{verb}: {exited}{memory}", facts=sandbox.why, state=sandbox.state, logs=logs)


def _diagnostics(client: Client, sandbox_id: str, *, events: bool = False) -> str:
    try:
        return client.diagnostics(sandbox_id, "events" if events else "logs")
    except OpenSandboxError:
        return ""
