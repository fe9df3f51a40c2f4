"""Finds and deletes what one run, one of its workers, or dead runs left on the server; touches nobody else's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

from pytest_opensandbox.client import Client
from pytest_opensandbox.deadlines import time_limit
from pytest_opensandbox.errors import ApiError, AuthError, OpenSandboxError, SweepError, TransportError
from pytest_opensandbox.lifecycle import TAG_CREATE, TAG_PROJECT, TAG_RUN, TAG_WORKER
from pytest_opensandbox.models import SandboxResponse
from pytest_opensandbox.waits import poll_until_ready

# Listings flap: a sandbox whose creation was under way may show up only in the next one.
_QUIET_LISTINGS = 2
_DELETED_AT_ONCE = 16
# How long a create that nobody waits for may take to show: on Docker, on a busy machine, 0.3 s (2026-11-23).
_LATE_SECONDS = 5.0
# For the answers that are under way when the budget ends: they say why something stays.
_LAST_ANSWERS_SECONDS = 2.0


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found."""

    deleted: tuple[str, ...] = ()
    """Ids of the sandboxes that it deleted, in the order of deletion."""
    left: tuple[str, ...] = ()
    """Ids of the sandboxes that it could not delete; they end with their lease."""
    error: str = ""
    """Why it stopped early, or ""."""


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
    broom = _Broom(client, find, unanswered)
    error = ""
    try:
        with time_limit(budget_seconds + _LAST_ANSWERS_SECONDS):
            poll_until_ready(broom.pass_once, budget_seconds=budget_seconds, on_timeout=broom.give_up)
    except OpenSandboxError as exc:
        error = str(exc)
    return SweepReport(tuple(broom.deleted), tuple(broom.stuck), error)


class _Broom:
    """One sweep under way."""

    def __init__(self, client: Client, find: Callable[[], list[SandboxResponse]], unanswered: Iterable[str]) -> None:
        self.deleted: dict[str, None] = {}
        self.stuck: dict[str, str] = {}
        self._client = client
        self._find = find
        self._awaited = set(unanswered)
        self._patient_until = time.monotonic() + _LATE_SECONDS
        self._quiet = 0

    def pass_once(self) -> bool | None:
        """List, delete what is new; True once enough listings were quiet."""
        seen = self._find()
        found = [box.id for box in seen if box.id not in self.deleted and not box.is_stopping]
        self.stuck = {sandbox_id: why for sandbox_id, why in self.stuck.items() if sandbox_id in found}
        self._delete_all(found)
        self._quiet = 0 if found else self._quiet + 1
        self._awaited -= {box.metadata.get(TAG_CREATE, "") for box in seen}
        if self._awaited and time.monotonic() < self._patient_until:
            return None
        return self._quiet >= _QUIET_LISTINGS or None

    def give_up(self, waited_seconds: float, attempts: int) -> SweepError:
        """Say what stays."""
        reasons = "; ".join(dict.fromkeys(self.stuck.values())) or "new ones kept appearing"
        return SweepError(list(self.stuck), f"after {waited_seconds:.1f} s and {attempts} listings: {reasons}")

    def _delete_all(self, sandbox_ids: Sequence[str]) -> None:
        """Delete several at once, because a server takes its time for each."""
        if not sandbox_ids:
            return
        # Lazy: most runs leave nothing to a sweep.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_DELETED_AT_ONCE, thread_name_prefix="opensandbox-sweep") as pool:
            # A thread knows the time limit by its context alone.
            deletions = [pool.submit(copy_context().run, self._delete, sandbox_id) for sandbox_id in sandbox_ids]
        for deletion in deletions:
            deletion.result()

    def _delete(self, sandbox_id: str) -> None:
        try:
            self._client.delete_sandbox(sandbox_id)
        except AuthError as exc:
            self.stuck[sandbox_id] = str(exc)
            raise
        except (ApiError, TransportError) as exc:
            self.stuck[sandbox_id] = str(exc)
        else:
            self.stuck.pop(sandbox_id, None)
            self.deleted[sandbox_id] = None
