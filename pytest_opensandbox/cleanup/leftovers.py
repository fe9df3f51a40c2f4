"""What runs that ended without their own sweep have left: on a server, or on an engine whose server has died."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Protocol

from pytest_opensandbox.cleanup.broom import SweepReport
from pytest_opensandbox.cleanup.keeping import (
    expired_snapshots,
    snapshots_of_run,
    sweep_expired_snapshots,
    sweep_snapshots,
)
from pytest_opensandbox.cleanup.sweep import expired, of_run, sweep, sweep_expired
from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.errors import ServerStartError
from pytest_opensandbox.sandbox.tracking import TAG_RUN


class Leftovers(Protocol):
    """What is left of some runs in one place."""

    owner: str
    """Whose it is, in words."""

    def find(self) -> list[str]:
        """Return a line for each thing.

        Raises:
            OpenSandboxError: nobody answers.
        """

    def clear(self) -> SweepReport:
        """Delete all of it; trouble is part of the report.

        Raises:
            OpenSandboxError: nobody answers.
        """


class OnServer:
    """What is left on an OpenSandbox server.

    Args:
        client: asks it.
        run_id: one run's, as long as it lives; None for what dead runs of the project left.
        project: label of the project.

    Raises:
        ValueError: neither run nor project.
    """

    def __init__(self, client: Client, *, run_id: str | None, project: str) -> None:
        self.owner = f"run {run_id}" if run_id else f"dead runs of {project}"
        if run_id:
            self._boxes = partial(of_run, client, run_id=run_id)
            self._snapshots = partial(snapshots_of_run, client, run_id=run_id)
            self._sweep_boxes = partial(sweep, client, run_id=run_id)
            self._sweep_snapshots = partial(sweep_snapshots, client, run_id=run_id)
        else:
            self._boxes = partial(expired, client, project=project)
            self._snapshots = partial(expired_snapshots, client, project=project)
            self._sweep_boxes = partial(sweep_expired, client, project=project)
            self._sweep_snapshots = partial(sweep_expired_snapshots, client, project=project)

    def find(self) -> list[str]:
        """Return a line for each sandbox and snapshot."""
        snapshots = (f"snapshot {one.id} ({one.name})" for one in self._snapshots())
        return [*(_line(box) for box in self._boxes()), *snapshots]

    def clear(self) -> SweepReport:
        """Delete the sandboxes, then the snapshots, which they may be using."""
        swept, kept = self._sweep_boxes(), self._sweep_snapshots()
        return SweepReport((*swept.deleted, *kept.deleted), (*swept.left, *kept.left), swept.error or kept.error)


class OnEngine:
    """What is left on the local Docker engine of a run whose server was killed together with what watched over it.

    Args:
        run_id: the run.
        host: address of the engine where DOCKER_HOST names none; "" for the usual one.
    """

    def __init__(self, run_id: str, host: str = "") -> None:
        self.owner = f"run {run_id}"
        self._host = host
        self._label = f"{TAG_RUN}={run_id}"

    def find(self) -> list[str]:
        """Return a line for each container and snapshot."""
        containers, snapshots = self._found(clear=False)
        return [*(f"container {found[:12]}" for found in containers), *(f"image {name}" for name in snapshots)]

    def clear(self) -> SweepReport:
        """Delete containers, then snapshots."""
        before = [name for names in self._found(clear=True) for name in names]
        after = [name for names in self._found(clear=False) for name in names]
        error = "the engine keeps them; docker rm -f and docker rmi say why" if after else ""
        return SweepReport(tuple(name for name in before if name not in after), tuple(after), error)

    def _found(self, *, clear: bool) -> tuple[list[str], list[str]]:
        # Lazy: they need an extra.
        from pytest_opensandbox.servers.docker_config import DockerStartError, check_libraries
        from pytest_opensandbox.servers.docker_engine import Engine

        try:
            check_libraries()
            with closing(Engine(self._host)) as engine:
                containers, snapshots = engine.left(self._label)
                for name in containers if clear else ():
                    engine.remove(name)
                for name in snapshots if clear else ():
                    engine.remove_snapshot(name)
        except DockerStartError as exc:
            raise ServerStartError(f"{exc}: {exc.cause}") from None
        return containers, snapshots


def _line(box: SandboxResponse) -> str:
    end = f"{box.expires_at:%Y-%m-%d %H:%M:%S %Z}" if box.expires_at else "somebody deletes it"
    return f"{box.id}, {box.state}, until {end}"
