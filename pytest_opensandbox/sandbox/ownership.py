"""Whether the agent that answers is the sandbox's own: with Docker's host network all sandboxes share the first one's.

The server gives each sandbox its id as a variable, and an agent hands its own variables on to what it runs.
"""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from pytest_opensandbox.client.command_result import CommandResult
from pytest_opensandbox.client.models import EXECD_PORT
from pytest_opensandbox.errors import SharedAgentError
from pytest_opensandbox.transport.endpoints import Endpoint

ID_VARIABLE = "OPENSANDBOX_ID"
"""Holds a sandbox's id; where it is not set nothing can be told, and that is fine."""

_REFUSAL = "!another-sandbox:"
_REFUSAL_EXIT_CODE = 96


def may_be_shared(endpoint: Endpoint) -> bool:
    """Tell whether an agent may be that of several sandboxes, as far as its address shows.

    Docker's bridge network and the embedded server give each sandbox a port of its own, a gateway a header.
    """
    parts = urlsplit(endpoint.url)
    return not endpoint.headers and (parts.port == EXECD_PORT or "/sandboxes/" in parts.path)


def guarded(script: str, sandbox_id: str) -> str:
    """Return a script that runs in this sandbox only; elsewhere it says whose agent has been given it.

    Args:
        script: text for the sandbox's shell.
        sandbox_id: the sandbox; "" for one that is not known, where nothing is checked.
    """
    if not sandbox_id:
        return script
    own = f'[ "${ID_VARIABLE}" = {shlex.quote(sandbox_id)} ]'
    refuse = f'{{ echo "{_REFUSAL}${ID_VARIABLE}"; exit {_REFUSAL_EXIT_CODE}; }}'
    return f'[ -z "${ID_VARIABLE}" ] || {own} || {refuse}\n{script}'


def check_owner(result: CommandResult) -> None:
    """Refuse the result of a guarded script that another sandbox's agent was given.

    Raises:
        SharedAgentError: it was; nothing was run.
    """
    if result.exit_code == _REFUSAL_EXIT_CODE and result.stdout.startswith(_REFUSAL):
        raise SharedAgentError(result.sandbox_id, other_id=result.stdout.removeprefix(_REFUSAL).strip()[:200])
