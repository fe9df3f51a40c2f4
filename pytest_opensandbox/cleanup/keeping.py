"""Snapshots that cannot be forgotten: each carries its run in its name, and goes when the run ends."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

from pytest_opensandbox.cleanup.broom import SweepReport, sweep_up
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.opts import label_value
from pytest_opensandbox.client.snapshots import SNAPSHOT_SECONDS
from pytest_opensandbox.errors import ApiError, OpenSandboxError
from pytest_opensandbox.printable import counted
from pytest_opensandbox.sandbox.lifecycle import TAG_RUN, Lifecycle, RunTags
from pytest_opensandbox.sandbox.lost_creates import may_have_created
from pytest_opensandbox.sandbox.progress import Phases
from pytest_opensandbox.setup_errors import SnapshotFailedError
from pytest_opensandbox.transport.waits import retry_create

# A snapshot has no lease. One that is older than the longest lease there is, and whose run has no sandbox, has no run.
_LONGEST_LIFE = timedelta(days=1)
_MISSING_STATUSES = frozenset({405, 501})
_UNABLE = ("SNAPSHOT::UNSUPPORTED_RUNTIME", "RUNTIME_PREFLIGHT_FAILED", "SNAPSHOT::NOT_IMPLEMENTED")


def run_prefix(run_id: str) -> str:
    """Return how the names of all snapshots of a run begin, and of no other run's."""
    return f"pytest-opensandbox.{run_id}."


def keep(
    lifecycle: Lifecycle, sandbox_id: str, name: str | None = None, *, timeout: float = SNAPSHOT_SECONDS
) -> Snapshot:
    """Take a snapshot that belongs to the run, and return it when it is ready.

    Args:
        lifecycle: whose server and run it is.
        sandbox_id: the source, which must run.
        name: what it is called behind the run's id; any text, None for a name of its own.
        timeout: seconds until it must be ready.

    Raises:
        SnapshotFailedError: it failed, or was not ready in time.
        ApiError: the server refuses; see ``lacks_snapshots``.
        TransportError: the server does not answer.
    """
    # Before it is begun, so that the sweep looks for it even where the answer never comes.
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
    """Tell whether a refusal means that there are no snapshots here at all, on this server or for this sandbox."""
    if error.status == 404:
        # A server from before there were snapshots knows no such route; this one does not know the sandbox.
        return not error.code.endswith("SANDBOX_NOT_FOUND")
    return error.status in _MISSING_STATUSES or error.code.endswith(_UNABLE)


def snapshots_of_run(client: Client, *, run_id: str) -> list[Snapshot]:
    """Return the snapshots of one run, whoever took them; none where the server knows no snapshots.

    Raises:
        OpenSandboxError: the server cannot be asked.
    """
    return _found(partial(_of_run, client, run_id))


def expired_snapshots(client: Client, *, project: str) -> list[Snapshot]:
    """Return the snapshots of a project's dead runs: older than any lease, of a run without a sandbox.

    Args:
        client: asks the server, whose clock counts.
        project: the label that runs put on their sandboxes, and of which the names of snapshots hold a mark.

    Raises:
        OpenSandboxError: the server cannot be asked.
    """
    return _found(partial(_of_dead_runs, client, project))


def sweep_expired_snapshots(client: Client, *, project: str, budget_seconds: float = 20.0) -> SweepReport:
    """Delete the snapshots of a project's dead runs; see ``expired_snapshots`` and ``sweep_snapshots``."""
    return _sweep(client, partial(_of_dead_runs, client, project), "snapshots of dead runs", budget_seconds)


def sweep_snapshots(client: Client, *, run_id: str, budget_seconds: float = 20.0) -> SweepReport:
    """Delete the snapshots of one run, whoever took them; its sandboxes must be gone.

    One that is still being made, or that a dying sandbox still uses, is waited for.

    Args:
        client: asks the server.
        run_id: the run whose snapshots go; never empty, so that no sweep reaches another run.
        budget_seconds: when to give up, whatever the server does; seconds, > 0.

    Returns:
        What was deleted and what is left; trouble is part of it, never raised.

    Raises:
        ValueError: an empty run id.
    """
    if not run_id:
        raise ValueError("run_id must not be empty: a sweep without one would reach other runs")
    return _sweep(client, partial(_of_run, client, run_id), f"snapshots named {run_prefix(run_id)}*", budget_seconds)


def _found(find: Callable[[], list[Snapshot]]) -> list[Snapshot]:
    try:
        return find()
    except ApiError as exc:
        if lacks_snapshots(exc):
            return []
        raise


def _of_run(client: Client, run_id: str) -> list[Snapshot]:
    return [snapshot for snapshot in client.list_snapshots() if snapshot.name.startswith(run_prefix(run_id))]


def _of_dead_runs(client: Client, project: str) -> list[Snapshot]:
    ours = re.compile(rf"pytest-opensandbox\.(\w+)\.{_mark(project)}\.")
    found = [(ours.match(snapshot.name), snapshot) for snapshot in client.list_snapshots()]
    youngest = client.server_time() - _LONGEST_LIFE
    old = [
        (match[1], snapshot)
        for match, snapshot in found
        if match and snapshot.created_at is not None and snapshot.created_at < youngest
    ]
    living = {run_id for run_id in {run_id for run_id, _ in old} if client.list_sandboxes({TAG_RUN: run_id})}
    return [snapshot for run_id, snapshot in old if run_id not in living]


def _sweep(client: Client, find: Callable[[], list[Snapshot]], unseen: str, budget_seconds: float) -> SweepReport:
    def names() -> dict[str, str]:
        return {snapshot.id: f"{snapshot.id} ({snapshot.name})" for snapshot in _found(find)}

    def failure(left: Sequence[str], why: str) -> OpenSandboxError:
        return OpenSandboxError(f"{counted(len(left), 'snapshot')} could not be deleted ({why})")

    doubt = f"{unseen} (if there are any; the server did not list them)"
    return sweep_up(names, client.delete_snapshot, budget_seconds=budget_seconds, failure=failure, unseen=(doubt,))


def _begin(lifecycle: Lifecycle, phases: Phases, sandbox_id: str, name: str) -> Snapshot:
    """Begin a snapshot; where the answer was lost, look for what was begun by its name, which is its own."""
    client = lifecycle.client

    def before_wait(refusal: ApiError) -> None:
        phases.enter(f"the server takes no snapshot for now ({refusal.status} {refusal.code}), asking again")

    try:
        return retry_create(
            lambda: client.create_snapshot(sandbox_id, name),
            budget_seconds=lifecycle.ready_timeout,
            before_wait=before_wait,
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
    return f"{run_prefix(tags.run_id)}{_mark(tags.project)}." + (
        own if name is None else f"{label_value(name)}-{secrets.token_hex(3)}"
    )


def _mark(project: str) -> str:
    """Return a project's mark: its label may hold every character that could end it in a name."""
    return hashlib.sha256(project.encode()).hexdigest()[:8]
