"""What a sweep deletes: sandboxes and snapshots on a server, or containers and images on a Docker engine.

Each target covers one run, or all dead runs of a project, and nothing that belongs to others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import timedelta

from pytest_opensandbox.cleanup.sweeper import SWEEP_SECONDS, SweepReport, sweep
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse, Snapshot
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ApiError, OpenSandboxError, ServerStartError, SweepError
from pytest_opensandbox.sandbox.snapshot import lacks_snapshots, project_mark, run_prefix
from pytest_opensandbox.sandbox.tracking import TAG_CREATE, TAG_PROJECT, TAG_RUN, TAG_WORKER
from pytest_opensandbox.text import counted

LATE_SECONDS = 5.0
"""How long a create whose response was lost may take to show: on Docker, on a busy machine, 0.3 s (2026-11-23)."""

# A snapshot has no lease. One that is older than the longest lease there is, and whose run has no sandbox, has no run.
_LONGEST_LIFE = timedelta(days=1)


class SandboxTarget:
    """The sandboxes of one run, of one of its workers, or of all dead runs of a project.

    A run is dead when the lease of its sandboxes is over: a living run renews it.

    Args:
        client: asks the server, whose clock counts.
        run_id: the run; None for all dead runs of ``project``.
        worker_id: only the sandboxes of this worker of the run; None for all.
        project: the label that runs put on their sandboxes; counts where no run is named.
        unanswered: tags of creates that may still be under way. The sweep waits for what they make.
        late_seconds: how long it waits for that; seconds.

    Raises:
        ValueError: neither a run nor a project is named.
    """

    unlisted = ()

    def __init__(
        self,
        client: Client,
        *,
        run_id: str | None = None,
        worker_id: str | None = None,
        project: str = "",
        unanswered: Iterable[str] = (),
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        _check_scope(run_id, project)
        self._client = client
        self._run_id = run_id
        self._worker_id = worker_id
        self._project = project
        self._awaited = set(unanswered)
        self._late_seconds = late_seconds
        self._wait_until = 0.0

    def find(self) -> list[SandboxResponse]:
        """Return the sandboxes that exist now.

        Raises:
            OpenSandboxError: the server cannot be asked.
        """
        if self._run_id:
            worker = {TAG_WORKER: self._worker_id} if self._worker_id else {}
            return self._client.list_sandboxes({TAG_RUN: self._run_id} | worker)
        found = self._client.list_sandboxes({TAG_PROJECT: self._project})
        now = self._client.server_time()
        # A sandbox without a run's tag was made by hand, whatever its other labels say.
        return [one for one in found if TAG_RUN in one.metadata and one.expires_at is not None and one.expires_at < now]

    def lines(self) -> list[str]:
        """Return one line of text for each sandbox.

        Raises:
            OpenSandboxError: the server cannot be asked.
        """
        return [_sandbox_line(sandbox) for sandbox in self.find()]

    def sweep(self, *, budget_seconds: float = SWEEP_SECONDS) -> SweepReport:
        """Delete the sandboxes; arguments and result as for ``sweeper.sweep``."""
        self._wait_until = monotonic() + self._late_seconds
        return sweep(self, budget_seconds=budget_seconds)

    def names(self) -> dict[str, str]:
        """Return the ids of the sandboxes that are to be deleted, each with itself as its name."""
        found = self.find()
        self._awaited.difference_update(sandbox.metadata.get(TAG_CREATE, "") for sandbox in found)
        # Kubernetes still lists for a while what it is deleting already.
        return {sandbox.id: sandbox.id for sandbox in found if not sandbox.is_stopping}

    def delete(self, resource_id: str) -> None:
        """Delete one sandbox."""
        self._client.delete_sandbox(resource_id)

    def is_settled(self) -> bool:
        """Say whether every create has shown what it made, or has had the time to."""
        return not self._awaited or monotonic() >= self._wait_until

    def failure(self, left: Sequence[str], why: str) -> OpenSandboxError:
        """Return the error for the sandboxes that stay."""
        return SweepError(left, why)


class SnapshotTarget:
    """The snapshots of one run, or of all dead runs of a project; the sandboxes must be gone before them.

    A sweep waits for a snapshot that is still being taken, or that a dying sandbox still uses.

    Args:
        client: asks the server, whose clock counts.
        run_id: the run; None for all dead runs of ``project``.
        project: the label that runs put on their sandboxes. The names of snapshots hold a mark of it.

    Raises:
        ValueError: neither a run nor a project is named.
    """

    def __init__(self, client: Client, *, run_id: str | None = None, project: str = "") -> None:
        _check_scope(run_id, project)
        self._client = client
        self._run_id = run_id
        self._project = project

    @property
    def unlisted(self) -> tuple[str, ...]:
        """The names to look for where the server returned no listing."""
        what = f"snapshots named {run_prefix(self._run_id)}*" if self._run_id else "snapshots of dead runs"
        return (f"{what} (if there are any; the server did not list them)",)

    def find(self) -> list[Snapshot]:
        """Return the snapshots that exist now; none where the server knows no snapshots.

        Raises:
            OpenSandboxError: the server cannot be asked.
        """
        try:
            return self._of_run(self._run_id) if self._run_id else self._of_dead_runs()
        except ApiError as exc:
            if lacks_snapshots(exc):
                return []
            raise

    def lines(self) -> list[str]:
        """Return one line of text for each snapshot.

        Raises:
            OpenSandboxError: the server cannot be asked.
        """
        return [f"snapshot {_snapshot_name(snapshot)}" for snapshot in self.find()]

    def sweep(self, *, budget_seconds: float = SWEEP_SECONDS) -> SweepReport:
        """Delete the snapshots; arguments and result as for ``sweeper.sweep``."""
        return sweep(self, budget_seconds=budget_seconds)

    def names(self) -> dict[str, str]:
        """Return the snapshots that are to be deleted: by id, id and name."""
        return {snapshot.id: _snapshot_name(snapshot) for snapshot in self.find()}

    def delete(self, resource_id: str) -> None:
        """Delete one snapshot."""
        self._client.delete_snapshot(resource_id)

    def is_settled(self) -> bool:
        """Say that no further snapshot is expected: its run has ended."""
        return True

    def failure(self, left: Sequence[str], why: str) -> OpenSandboxError:
        """Return the error for the snapshots that stay."""
        return OpenSandboxError(f"{counted(len(left), 'snapshot')} could not be deleted ({why})")

    def _of_run(self, run_id: str) -> list[Snapshot]:
        return [one for one in self._client.list_snapshots() if one.name.startswith(run_prefix(run_id))]

    def _of_dead_runs(self) -> list[Snapshot]:
        """Return the snapshots that are older than any lease, of runs that have no sandbox."""
        ours = re.compile(rf"pytest-opensandbox\.(\w+)\.{project_mark(self._project)}\.")
        found = [(ours.match(snapshot.name), snapshot) for snapshot in self._client.list_snapshots()]
        youngest = self._client.server_time() - _LONGEST_LIFE
        old = [
            (match[1], snapshot)
            for match, snapshot in found
            if match and snapshot.created_at is not None and snapshot.created_at < youngest
        ]
        run_ids = {run_id for run_id, _ in old}
        living = {run_id for run_id in run_ids if self._client.list_sandboxes({TAG_RUN: run_id})}
        return [snapshot for run_id, snapshot in old if run_id not in living]


class EngineTarget:
    """What one run left on the local Docker engine, where its server was killed together with its guard process.

    Args:
        run_id: the run.
        host: address of the engine where DOCKER_HOST names none; "" for the usual one.
    """

    def __init__(self, run_id: str, host: str = "") -> None:
        self._host = host
        self._label = f"{TAG_RUN}={run_id}"

    def lines(self) -> list[str]:
        """Return one line of text for each container and each image.

        Raises:
            ServerStartError: the engine does not answer.
        """
        containers, images = self._found(delete=False)
        return [*(f"container {found[:12]}" for found in containers), *(f"image {name}" for name in images)]

    def sweep(self) -> SweepReport:
        """Delete the containers, then the images.

        Raises:
            ServerStartError: the engine does not answer.
        """
        before = [name for names in self._found(delete=True) for name in names]
        after = [name for names in self._found(delete=False) for name in names]
        error = "the engine keeps them; docker rm -f and docker rmi say why" if after else ""
        return SweepReport(tuple(name for name in before if name not in after), tuple(after), error)

    def _found(self, *, delete: bool) -> tuple[list[str], list[str]]:
        # Lazy: they need an extra.
        from pytest_opensandbox.servers.docker_config import DockerStartError, check_libraries
        from pytest_opensandbox.servers.docker_engine import Engine

        try:
            check_libraries()
            with closing(Engine(self._host)) as engine:
                containers, images = engine.left(self._label)
                for name in containers if delete else ():
                    engine.remove(name)
                for name in images if delete else ():
                    engine.remove_snapshot(name)
        except DockerStartError as exc:
            raise ServerStartError(f"{exc}: {exc.cause}") from None
        return containers, images


def _check_scope(run_id: str | None, project: str) -> None:
    if run_id == "":
        raise ValueError("run_id must not be empty: a sweep without one would reach other runs")
    if run_id is None and not project:
        raise ValueError("project must not be empty: a sweep without one would reach other projects")


def _snapshot_name(snapshot: Snapshot) -> str:
    return f"{snapshot.id} ({snapshot.name})"


def _sandbox_line(sandbox: SandboxResponse) -> str:
    end = f"{sandbox.expires_at:%Y-%m-%d %H:%M:%S %Z}" if sandbox.expires_at else "it is deleted"
    return f"{sandbox.id}, {sandbox.state}, until {end}"
