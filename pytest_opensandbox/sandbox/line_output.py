"""Commands by the agent's line events, for a sandbox in which the runner cannot be executed."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.command_run import shell_text
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.errors import OpenSandboxError, SharedAgentError
from pytest_opensandbox.sandbox.runner_protocol import Invocation
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.retry import time_limit

ID_VARIABLE = "OPENSANDBOX_ID"
"""Holds the sandbox's id: the server sets it, and the agent passes it on to what it runs. Some servers set none."""

_REFUSAL = "!another-sandbox:"
_REFUSAL_EXIT_CODE = 96


def run_by_events(client: Client, endpoint: Endpoint, invocation: Invocation, *, because: str) -> CommandResult:
    """Run a command through the sandbox's shell; its output is made of lines.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        invocation: what to run.
        because: why the output is not exact.

    Returns:
        The result with ``exact=False``.

    Raises:
        SharedAgentError: another sandbox answers; nothing was run.
        OpenSandboxError: as ``Client.run_command``.
    """
    with _stdin_file(client, endpoint, invocation) as stdin:
        result = client.run_command(
            endpoint,
            _guarded(f"exec <{stdin}; {shell_text(invocation.command)}", endpoint.sandbox_id),
            cwd=invocation.cwd,
            env=invocation.env,
            uid=invocation.uid,
            gid=invocation.gid,
            timeout=invocation.timeout,
            on_stdout=invocation.on_stdout,
            on_stderr=invocation.on_stderr,
            max_bytes=invocation.max_bytes,
            shown_as=invocation.command,
        )
    if result.exit_code == _REFUSAL_EXIT_CODE and result.stdout.startswith(_REFUSAL):
        raise SharedAgentError(result.sandbox_id, other_id=result.stdout.removeprefix(_REFUSAL).strip()[:200])
    return replace(result, inexact_because=because)


def _guarded(script: str, sandbox_id: str) -> str:
    """Return a script that runs in this sandbox only; in another it prints that sandbox's id and runs nothing."""
    if not sandbox_id:
        return script
    own = f'[ "${ID_VARIABLE}" = {shlex.quote(sandbox_id)} ]'
    refuse = f'{{ echo "{_REFUSAL}${ID_VARIABLE}"; exit {_REFUSAL_EXIT_CODE}; }}'
    return f'[ -z "${ID_VARIABLE}" ] || {own} || {refuse}\n{script}'


@contextmanager
def _stdin_file(client: Client, endpoint: Endpoint, invocation: Invocation) -> Iterator[str]:
    """Yield the path of a file in the sandbox that holds the standard input."""
    if invocation.stdin is None:
        yield "/dev/null"
        return
    path = f"/tmp/.opensandbox-{secrets.token_hex(8)}"  # noqa: S108 - in the sandbox, and it cannot be guessed
    # Another user's command must be able to read it.
    client.upload_files(endpoint, [FileUpload(path, invocation.stdin, 0o600 if invocation.uid is None else 0o644)])
    try:
        yield path
    finally:
        with suppress(OpenSandboxError), time_limit(client.timeouts.tidy_seconds):
            client.remove_files(endpoint, [path])
