"""What became of a create whose answer was lost: looked for by the label that only this create has."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.errors import ApiError, OpenSandboxError, ProtocolError, TransportError
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.deadlines import time_limit
from pytest_opensandbox.transport.refusals import may_pass
from pytest_opensandbox.transport.retry import poll_until_ready

SETTLING_SECONDS = 1.5
"""How long listings must stay empty until nothing is expected any more; a server may list a sandbox a moment later."""
LOOKING_SECONDS = 5.0
"""How long a server that cannot be asked is asked again."""

_AMBIGUOUS_STATUSES = frozenset({502, 503, 504})


def may_have_created(error: OpenSandboxError) -> bool:
    """Tell whether a create that failed in this way may have made a sandbox nevertheless."""
    if isinstance(error, ApiError):
        return error.status in _AMBIGUOUS_STATUSES
    return isinstance(error, ProtocolError) or (isinstance(error, TransportError) and not error.unsent)


def look_up(client: Client, label: Mapping[str, str], *, settling: float | None = None) -> list[SandboxResponse]:
    """Return the sandboxes with a label: as soon as there are any, or none when the listings have stayed empty.

    What the server makes later than that, and what it could not be asked for, is left to the sweep and to the lease.

    Args:
        client: asks the server.
        label: unique to one create.
        settling: how long the listings must stay empty; seconds, default ``SETTLING_SECONDS``.
    """
    settled = time.monotonic() + (SETTLING_SECONDS if settling is None else settling)

    def look() -> list[SandboxResponse] | None:
        try:
            found = client.list_sandboxes(label)
        except (ApiError, TransportError) as exc:
            if not may_pass(exc):
                raise
            return None
        return found if found or time.monotonic() >= settled else None

    def give_up(waited_seconds: float, attempts: int) -> Exception:
        return OpenSandboxError(f"no listing in {waited_seconds:.1f} s and {counted(attempts, 'look')}")

    try:
        with time_limit(LOOKING_SECONDS):
            return poll_until_ready(look, budget_seconds=LOOKING_SECONDS, on_timeout=give_up)
    except OpenSandboxError:
        return []
