"""Finds and deletes what one run, one of its workers, or dead runs left on the server; touches nobody else's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from pytest_opensandbox.cleanup.broom import SweepReport, sweep_up
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.errors import SweepError
from pytest_opensandbox.sandbox.tracking import TAG_CREATE, TAG_PROJECT, TAG_RUN, TAG_WORKER

# How long a create that nobody waits for may take to show: on Docker, on a busy machine, 0.3 s (2026-11-23).
_LATE_SECONDS = 5.0


def sweep(
    client: Client,
    *,
    run_id: str,
    worker_id: str | None = None,
    unanswered: Iterable[str] = (),
    budget_seconds: float = 20.0,
) -> SweepReport:
    """Delete the sandboxes of one run, until two listings in a row show nothing new.

    Args:
        client: asks the server.
        run_id: the run whose sandboxes go; never empty, so that no sweep reaches another run.
        worker_id: only those of this worker; None for all.
        unanswered: tags of creates that may still be under way; what they make is waited for, for 5 s.
        budget_seconds: when to give up, whatever the server does; seconds, > 0; what is under way may take 2 s more.

    Returns:
        What was deleted and what is left; trouble is part of it, never raised.

    Raises:
        ValueError: an empty run id.
    """
    find = partial(of_run, client, run_id=run_id, worker_id=worker_id)
    return _sweep(client, find, budget_seconds, unanswered=unanswered)


def sweep_expired(client: Client, *, project: str, budget_seconds: float = 20.0) -> SweepReport:
    """Delete the sandboxes of a project's dead runs; arguments and result as for ``sweep`` and ``expired``."""
    return _sweep(client, partial(expired, client, project=project), budget_seconds)


def of_run(client: Client, *, run_id: str, worker_id: str | None = None) -> list[SandboxResponse]:
    """Return the sandboxes of one run, or of one of its workers.

    Raises:
        ValueError: an empty run id.
        OpenSandboxError: the server cannot be asked.
    """
    if not run_id:
        raise ValueError("run_id must not be empty: a sweep without one would reach other runs")
    return client.list_sandboxes({TAG_RUN: run_id} | ({TAG_WORKER: worker_id} if worker_id else {}))


def expired(client: Client, *, project: str) -> list[SandboxResponse]:
    """Return the sandboxes of a project's runs that no living run holds: their lease, which it renews, is over.

    Args:
        client: asks the server, whose clock counts.
        project: the label that runs put on their sandboxes; never empty, so that no other project is reached.

    Raises:
        ValueError: an empty project.
        OpenSandboxError: the server cannot be asked.
    """
    if not project:
        raise ValueError("project must not be empty: a sweep without one would reach other projects")
    found = client.list_sandboxes({TAG_PROJECT: project})
    now = client.server_time()
    # Without a run's tag it was made by hand, whatever its other labels say.
    return [box for box in found if TAG_RUN in box.metadata and box.expires_at is not None and box.expires_at < now]


def _sweep(
    client: Client, find: Callable[[], list[SandboxResponse]], budget_seconds: float, *, unanswered: Iterable[str] = ()
) -> SweepReport:
    awaited = set(unanswered)
    patient_until = time.monotonic() + _LATE_SECONDS

    def names() -> dict[str, str]:
        seen = find()
        awaited.difference_update(box.metadata.get(TAG_CREATE, "") for box in seen)
        # Kubernetes still lists for a while what it is deleting already.
        return {box.id: box.id for box in seen if not box.is_stopping}

    return sweep_up(
        names,
        client.delete_sandbox,
        budget_seconds=budget_seconds,
        failure=SweepError,
        is_settled=lambda: not awaited or time.monotonic() >= patient_until,
    )
