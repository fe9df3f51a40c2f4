"""Finds and deletes the snapshots of a run, and those of dead runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from pytest_opensandbox.cleanup.broom import SweepReport, sweep_up
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.errors import ApiError, OpenSandboxError
from pytest_opensandbox.sandbox.snapshot import lacks_snapshots, project_mark, run_prefix
from pytest_opensandbox.sandbox.tracking import TAG_RUN
from pytest_opensandbox.text import counted

# A snapshot has no lease. One that is older than the longest lease there is, and whose run has no sandbox, has no run.
_LONGEST_LIFE = timedelta(days=1)


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
    ours = re.compile(rf"pytest-opensandbox\.(\w+)\.{project_mark(project)}\.")
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
