"""Messages between xdist's controller and its workers: run id, server and store one way, tallies the other way."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from pytest_opensandbox.plugin.run import Run
from pytest_opensandbox.sandbox.tracking import Tally, total

MAIN = "main"
RUN_ID_KEY = "opensandbox_run_id"
TALLY_KEY = "opensandbox_tally"
USAGE_ERROR_KEY = "opensandbox_usage_error"
SERVER_KEY = "opensandbox_server"
STORE_KEY = "opensandbox_store"


def identity(config: pytest.Config) -> tuple[str, str]:
    """Return the run id and the worker id; the id is minted once, where no other process controls this one."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return given.get(RUN_ID_KEY) or secrets.token_hex(6), given.get("workerid", MAIN)


def shared_server(config: pytest.Config) -> dict[str, str]:
    """Return what the controller said about the server that all workers share; empty where there is none."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return dict(given.get(SERVER_KEY, {}))


def shared_store(config: pytest.Config) -> str:
    """Return the directory in which the controller has its workers share the outcomes of setups; "" without one."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return str(given.get(STORE_KEY, ""))


def report_to_controller(config: pytest.Config, *, tally: Tally | None = None, usage_error: str = "") -> None:
    """Send the controller a worker's final tally, or its usage error; does nothing without a controller."""
    output: dict[str, Any] = getattr(config, "workeroutput", {})
    if tally is not None:
        output[TALLY_KEY] = tally.to_wire()
    if usage_error:
        output[USAGE_ERROR_KEY] = usage_error


class Workers:
    """What a controller knows of its workers; empty where there are none.

    Args:
        run: the controller's own part of the run.
    """

    def __init__(self, run: Run) -> None:
        self.crashed: list[str] = []
        """Names of the workers that died, in that order."""
        self.unreported: list[str] = []
        """Names of those whose last tally is missing: after Ctrl-C xdist drops the reports of its workers."""
        self.usage_error = ""
        """A worker's usage error, or ""."""
        self._run = run
        self._tallies: dict[str, Tally] = {}
        self._alive: set[str] = set()
        self._to_sweep = False
        self._error = ""

    @property
    def error(self) -> str:
        """Why a sweep of this run stopped early, or ""."""
        return self._error or self._run.error

    @property
    def tally(self) -> Tally:
        """What became of the sandboxes of the whole run, so far as it is known."""
        return total([self._run.tally, *self._tallies.values()])

    def configure_worker(self, worker_id: str, workerinput: dict[str, Any]) -> None:
        """Give a worker, before it starts, its run, the server where that is shared, and the store of setups."""
        # The workers may have sandboxes as soon as they begin, and this process sweeps them.
        self._run.signals.take()
        workerinput[RUN_ID_KEY] = self._run.run_id
        workerinput[SERVER_KEY] = self._run.server.for_workers()
        workerinput[STORE_KEY] = self._run.store.path
        self._alive.add(worker_id)

    def receive_tally(self, worker_id: str, body: dict[str, Any] | None) -> None:
        """Take a worker's tally, which replaces its earlier one."""
        if body is not None:
            self._tallies[worker_id] = Tally.from_wire(body)
            self._to_sweep = self._to_sweep or self._tallies[worker_id].used

    def note_end(self, worker_id: str, *, died: bool) -> None:
        """Take note that a worker has ended; what a dead one left on a shared server is swept at once."""
        self._alive.discard(worker_id)
        if not died:
            return
        self.crashed.append(worker_id)
        if self._run.server.owns_server:
            # Its server died with it, and its sandboxes with the server.
            self._settle(worker_id, deleted=(), left=())
        else:
            self._to_sweep = True
            if not self._run.server.is_refused:
                self._sweep(worker_id)

    def finish(self) -> None:
        """Sweep the whole run once its workers are gone, if any of them may have had a sandbox; safe to call again."""
        # A worker without a last report, as after Ctrl-C, may have had sandboxes.
        server = self._run.server
        if not (self._to_sweep or self._alive) or server.is_refused:
            return
        if server.owns_server:
            self._settle_unreported()
            return
        report = self._run.sweep()
        self._error = report.error
        summed = total(self._tallies.values())
        swept = summed.after_sweep(deleted=report.deleted, left=report.left, complete=not report.error)
        # A worker that died may have begun a snapshot and not reported it.
        self._tallies = {"": self._run.sweep_snapshots(swept, also_unreported=bool(self.crashed or self._alive))}
        self._to_sweep = False
        self.unreported = sorted(self._alive)
        self._alive.clear()

    def _settle_unreported(self) -> None:
        """Count the sandboxes of workers without a last report: their servers have ended with them."""
        self.unreported += sorted(self._alive)
        for worker_id in self._alive:
            self._settle(worker_id, deleted=(), left=())
        self._alive.clear()

    def _sweep(self, worker_id: str) -> None:
        report = self._run.sweep(worker_id=worker_id)
        if not report.error:
            self._settle(worker_id, deleted=report.deleted, left=report.left)

    def _settle(self, worker_id: str, *, deleted: tuple[str, ...], left: tuple[str, ...]) -> None:
        before = self._tallies.get(worker_id, Tally())
        self._tallies[worker_id] = before.after_sweep(deleted=deleted, left=left, complete=True)
