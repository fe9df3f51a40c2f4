"""What one pytest process holds for its run: the tags, the way to a server, and the sandboxes that tests asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import ApiError, AuthError, OpenSandboxError, ServerStartError, TransportError
from pytest_opensandbox.plugin.run_records import remember
from pytest_opensandbox.plugin.running import Running
from pytest_opensandbox.plugin.server import Connection, has_no_route
from pytest_opensandbox.plugin.signals import Signals
from pytest_opensandbox.provisioning.sandbox_request import SandboxRequest
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.tracking import SetupTally, Tally
from pytest_opensandbox.settings.settings import Settings
from pytest_opensandbox.temporary_directories import remove_abandoned

if TYPE_CHECKING:
    from pytest_opensandbox.cleanup.sweeper import SweepReport
    from pytest_opensandbox.client.client import Client
    from pytest_opensandbox.provisioning.setup_cache import SetupCache
    from pytest_opensandbox.sandbox.lifecycle import Lifecycle
    from pytest_opensandbox.sandbox.sandbox import Sandbox

RUN = pytest.StashKey["Run"]()
"""Where a process's part of the run lies in ``config.stash``."""

DYING_SECONDS = 1.0
"""How long a server that does not answer any more may take to be seen to have ended."""

Tell = Callable[[str, pytest.Item | None], None]


class Run(Running):
    """This process's part of a run: all of it, one worker's, or what the controller of workers does.

    Args:
        config: pytest's configuration.
        settings: what the run was told.
        run_id: the same in all processes of the run.
        worker_id: ``main`` or the xdist worker's name.
        server: what the controller said of the server that all workers share; empty where there is none.
        store: where the processes of the run leave what they make once for all; "" in the first of them.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        *,
        run_id: str,
        worker_id: str,
        server: Mapping[str, str] | None = None,
        store: str = "",
    ) -> None:
        super().__init__(config)
        self.settings = settings
        self.run_id = run_id
        self.worker_id = worker_id
        self.connection = Connection(settings, run_id=run_id, server=server)
        self.store = SharedStore(store)
        self.signals = Signals(enabled=settings.signals)
        self.tell: Tell = lambda text, item: None
        """Shows the user a line while a test runs."""
        self.error = ""
        """Why the sweep at the end stopped early, or ""."""
        self._lifecycle: Lifecycle | None = None
        self._prepared: SetupCache | None = None
        self._final = Tally()
        self._failures: list[str] = []

    @property
    def is_worker(self) -> bool:
        """Whether another process controls this one."""
        return hasattr(self.config, "workerinput")

    @property
    def tally(self) -> Tally:
        """What became of this process's sandboxes so far."""
        if self._lifecycle is None:
            return replace(self._final, failures=tuple(self._failures))
        created, left = self._lifecycle.ledger.created, self._lifecycle.ledger.left
        setups = SetupTally(has_snapshots=self._lifecycle.ledger.has_snapshots)
        if self._prepared is not None:
            setups += self._prepared.tally
        counts = Tally(created=len(created), deleted=len(created) - len(left), left=left, setups=setups)
        return replace(counts, failures=tuple(self._failures))

    def client(self) -> Client:
        """Return the client of the run's server.

        Raises:
            ServerStartError: no server can be had.
        """
        self.look_after_server()
        return self.connection.client()

    def look_after_server(self, *, within: float = 0.0) -> None:
        """Look whether a server of ours has ended by itself: the embedded one takes its sandboxes and snapshots along.

        Args:
            within: how long to wait for its end, where there is reason to believe in it; seconds.
        """
        self._failures += [] if self.is_fork else self.connection.replace_ended()
        if self.is_fork or (failure := self.connection.find_failure(within=within)) is None:
            return
        self._failures.append(failure.line(worker_id=self.worker_id, nodeid=self._nodeid))
        if self._lifecycle is not None:
            self._lifecycle.ledger.write_off()
        if self._prepared is not None:
            self._prepared.scope = self._scope

    def renew_server(self) -> None:
        """Start the embedded server again where it has ended, before a test that holds a client of it."""
        self.look_after_server()
        if self.connection.is_down:
            # What it is refused for, the test hears when it asks.
            with suppress(ServerStartError):
                self.connection.client()

    def make(self, recipe: SandboxRequest) -> Sandbox:
        """Create a sandbox; one that a test's own body asks for goes with that test.

        Raises:
            ConfigError: the recipe, or a hook's change to it, breaks a rule.
            ServerStartError: no server can be had.
            OpenSandboxError: the server refuses, or the sandbox does not become ready.
        """
        self.look_after_server()
        opts = self._changed_by_hooks(recipe.opts(self.settings))
        preparation = recipe.preparation(self.settings, root=self.config.rootpath)
        launch = partial(self._launch, command_timeout=recipe.command_timeout(self.settings))
        box = self._preparing().make(opts, preparation, launch) if preparation else launch(opts)
        self._recent.append(box)
        box.call_on_close(self._tell_of_end)
        try:
            if self._in_body and self._item is not None:
                self._item.addfinalizer(lambda: self.close_box(box))
            self.hook.pytest_opensandbox_created(config=self.config, sandbox=box, nodeid=self._nodeid)
        except BaseException:
            self.close_box(box)
            raise
        return box

    def close_box(self, box: Sandbox) -> None:
        """Delete one sandbox; what cannot be deleted now is left to the sweep, so that no test fails for it."""
        self.look_after_server()
        try:
            box.close()
        except OpenSandboxError:
            if self._lifecycle is not None and box.id not in self._lifecycle.ledger.left:
                # Deleted all the same: it is a hook that has failed, and its author wants to know.
                raise

    def close_boxes(self) -> None:
        """Delete every sandbox that is still open, the newest first."""
        # A hook that fails for one of them, or Ctrl-C, must not keep the others.
        with ExitStack() as stack:
            for box in self._open:
                stack.callback(self.close_box, box)

    def finish(self) -> None:
        """Delete what is open, sweep what is this process's to sweep, stop its server; safe to call again.

        In a fork, only what it has made itself goes.
        """
        if self.is_fork:
            self.close_boxes()
            return
        self.look_after_server()
        if self._lifecycle is not None:
            self.close_boxes()
            self._lifecycle.close()
            # Where the server could not be reached at all, asking it again would only make the user wait.
            unanswered = self._lifecycle.ledger.unanswered
            is_vain = self.connection.is_down or (self.connection.is_refused and not unanswered)
            final = self.tally if is_vain else self._swept(self.tally, unanswered)
            self._lifecycle, self._prepared, self._final = None, None, final
        self.connection.close()
        if self.connection.owns_server and not self.connection.left_sandboxes:
            # It takes with it what a sweep could not delete.
            self._final = self._final.after_sweep(deleted=(), left=(), complete=True)
        self.store.clear()

    def sweep(self, *, worker_id: str | None = None, unanswered: Sequence[str] = ()) -> SweepReport:
        """Delete what the whole run, or one of its workers, left on the server.

        Args:
            worker_id: the worker; None for all.
            unanswered: tags of creates that may still be under way.

        Raises:
            ServerStartError: no server can be had.
        """
        # Lazy: only a run that asked for a sandbox pays for HTTP.
        from pytest_opensandbox.cleanup.targets import SandboxTarget

        client = self._lifecycle.client if self._lifecycle else self.client()
        return SandboxTarget(client, run_id=self.run_id, worker_id=worker_id, unanswered=unanswered).sweep()

    def sweep_snapshots(self, tally: Tally, *, also_unheard: bool = False) -> Tally:
        """Delete the snapshots of the whole run, and return the tally with those that stay.

        Args:
            tally: of the run; where it tells of no snapshot the server is not asked.
            also_unheard: whether there may be some all the same.

        Raises:
            ServerStartError: no server can be had.
        """
        if not (tally.setups.has_snapshots or also_unheard):
            return tally
        # Lazy, as above.
        from pytest_opensandbox.cleanup.targets import SnapshotTarget

        client = self._lifecycle.client if self._lifecycle else self.client()
        report = SnapshotTarget(client, run_id=self.run_id).sweep()
        self.error = self.error or report.error
        return replace(tally, setups=tally.setups + SetupTally(left=report.left))

    def _preparing(self) -> SetupCache:
        # Lazy, as above.
        from pytest_opensandbox.provisioning.setup_cache import SetupCache

        if self._prepared is None:
            progress = self._begin().progress
            self._prepared = SetupCache(self.store, scope=self._scope, progress=progress, discard=self.close_box)
        return self._prepared

    def _launch(self, opts: SandboxOpts, *, command_timeout: float, image: str = "") -> Sandbox:
        # Lazy, as above.
        from pytest_opensandbox.sandbox.sandbox import Sandbox

        lifecycle = self._begin()
        self.connection.check_image(opts)
        try:
            launched = lifecycle.launch(opts, test=self._nodeid)
        except (AuthError, TransportError) as exc:
            self.look_after_server(within=DYING_SECONDS)
            if lifecycle.ledger.created or self.connection.is_down:
                raise
            raise self.connection.refuse(exc) from exc
        except ApiError as exc:
            if has_no_route(exc) and not lifecycle.ledger.created:
                raise self.connection.refuse(exc) from exc
            self.connection.refuse_image(opts, exc)
            raise
        box = Sandbox(lifecycle, replace(launched, image=image or launched.image), command_timeout=command_timeout)
        self._open.append(box)
        box.call_on_close(self._forget)
        return box

    def _begin(self) -> Lifecycle:
        # Lazy, as above.
        from pytest_opensandbox.sandbox.lifecycle import Lifecycle
        from pytest_opensandbox.sandbox.tracking import RunTags

        if self._lifecycle is None:
            self.signals.take()
            remove_abandoned()
            remember(self.config, self.run_id, self.settings)
        client = self.connection.client()
        if self._lifecycle is None:
            self._lifecycle = Lifecycle(
                client,
                tags=RunTags(self.run_id, self.worker_id, self.settings.project),
                lease_seconds=self.settings.lease_seconds,
                ready_timeout=self.settings.ready_timeout_seconds,
                tell=self._tell_of_wait,
            )
        return self._lifecycle

    @property
    def _scope(self) -> str:
        """Who shares what is made once for all: the run, or the users of one embedded server."""
        return f"{self.worker_id}-{len(self.connection.failures)}" if self.connection.owns_server else ""

    def _tell_of_wait(self, text: str) -> None:
        self.tell(text, self._item)

    def _swept(self, tally: Tally, unanswered: Sequence[str]) -> Tally:
        """Return the tally after this process's own sweep.

        A worker of a shared server leaves that to the controller, but for creates of which only it knows.
        """
        is_sharing = self.is_worker and not self.connection.owns_server
        if is_sharing and not unanswered:
            return tally
        report = self.sweep(worker_id=self.worker_id if is_sharing else None, unanswered=unanswered)
        self.error = "" if self.connection.owns_server else report.error
        after = tally.after_sweep(deleted=report.deleted, left=report.left, complete=not self.error)
        return after if is_sharing or self.connection.owns_server else self.sweep_snapshots(after)
