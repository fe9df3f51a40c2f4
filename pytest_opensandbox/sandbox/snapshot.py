"""Snapshots of sandboxes, whose names carry the run, so that a sweep finds them."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandbox_opts import label_value
from pytest_opensandbox.client.snapshots import SNAPSHOT_SECONDS
from pytest_opensandbox.errors import ApiError, OpenSandboxError, SnapshotFailedError
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, may_have_created
from pytest_opensandbox.sandbox.progress import Phases
from pytest_opensandbox.sandbox.tracking import RunTags
from pytest_opensandbox.transport.retry import retry_create

_MISSING_STATUSES = frozenset({405, 501})
_UNABLE = ("SNAPSHOT::UNSUPPORTED_RUNTIME", "RUNTIME_PREFLIGHT_FAILED", "SNAPSHOT::NOT_IMPLEMENTED")


def run_prefix(run_id: str) -> str:
    """Return the beginning of the names of all snapshots of a run, and of no other run."""
    return f"pytest-opensandbox.{run_id}."


def take_snapshot(
    lifecycle: Lifecycle, sandbox_id: str, name: str | None = None, *, timeout: float = SNAPSHOT_SECONDS
) -> Snapshot:
    """Take a snapshot that belongs to the run, and return it when it is ready.

    Args:
        lifecycle: knows the server and the run.
        sandbox_id: the source, which must run.
        name: follows the run's id in its name; any text, None for a random one.
        timeout: seconds until it must be ready.

    Raises:
        SnapshotFailedError: it failed, or was not ready in time.
        ApiError: the server refuses; see ``lacks_snapshots``.
        TransportError: the server does not answer.
    """
    # Set before the request, so that the sweep looks for the snapshot even if the answer never comes.
    lifecycle.ledger.has_snapshots = True
    with lifecycle.progress.phases() as phases:
        phases.enter(f"taking a snapshot of sandbox {sandbox_id}")
        begun = _begin(lifecycle, phases, sandbox_id, _name(lifecycle.tags, name))
        try:
            return lifecycle.client.wait_snapshot_ready(begun.id, timeout=timeout, known=begun)
        except SnapshotFailedError:
            with suppress(OpenSandboxError):
                lifecycle.client.delete_snapshot(begun.id)
            raise


def lacks_snapshots(error: ApiError) -> bool:
    """Return whether a refusal means that this server, or this kind of sandbox, has no snapshots at all."""
    if error.status == 404:
        # A server older than snapshots has no such route; this code means that the sandbox does not exist.
        return not error.code.endswith("SANDBOX_NOT_FOUND")
    return error.status in _MISSING_STATUSES or error.code.endswith(_UNABLE)


def project_mark(project: str) -> str:
    """Return a digest of a project's name: the name itself may hold any character that separates parts of a name."""
    return hashlib.sha256(project.encode()).hexdigest()[:8]


def _begin(lifecycle: Lifecycle, phases: Phases, sandbox_id: str, name: str) -> Snapshot:
    """Begin a snapshot; if the answer was lost, look for the snapshot by its unique name."""
    client = lifecycle.client

    def before_wait(refusal: ApiError) -> None:
        phases.enter(f"the server takes no snapshot for now ({refusal.status} {refusal.code}), asking again")

    try:
        return retry_create(
            lambda: client.create_snapshot(sandbox_id, name),
            budget_seconds=lifecycle.ready_timeout,
            before_wait=before_wait,
            timeouts=client.timeouts,
        )
    except OpenSandboxError as exc:
        if not may_have_created(exc):
            raise
        with suppress(OpenSandboxError):
            for found in client.list_snapshots(sandbox_id, name):
                return found
        raise


def _name(tags: RunTags, name: str | None) -> str:
    own = f"{tags.worker_id}-{secrets.token_hex(6)}"
    return f"{run_prefix(tags.run_id)}{project_mark(tags.project)}." + (
        own if name is None else f"{label_value(name)}-{secrets.token_hex(3)}"
    )
