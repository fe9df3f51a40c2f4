"""The state of one pytest process: the test that runs, the run's tags, its server, and the sandboxes it asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pluggy
import pytest

from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ConfigError, OpenSandboxError, ServerStartError
from pytest_opensandbox.plugin.run_records import remember
from pytest_opensandbox.plugin.server import RunServer
from pytest_opensandbox.plugin.signals import Signals
from pytest_opensandbox.provisioning.sandbox_request import ResolvedRequest
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.tracking import RunTags, SetupTally, Tally
from pytest_opensandbox.settings.settings import Settings
from pytest_opensandbox.temporary_directories import remove_abandoned

if TYPE_CHECKING:
    from pytest_opensandbox.cleanup.sweeper import SweepReport
    from pytest_opensandbox.client.client import Client
    from pytest_opensandbox.provisioning.provisioner import Provisioner
    from pytest_opensandbox.sandbox.sandbox import Sandbox

RUN = pytest.StashKey["Run"]()
"""Where ``config.stash`` holds the process's part of the run."""

Notify = Callable[[str, pytest.Item | None], None]

_OUTPUT_FIXTURES = frozenset({"sandbox", "sandbox_factory", "opensandbox_client"})
"""The fixtures by which output of a sandbox comes to a test."""


class Run:
    """One process's part of a run: all of it, one worker's, or what the controller of workers does.

    Args:
        config: pytest's configuration.
        settings: the options of the run.
        run_id: the same in all processes of the run.
        worker_id: ``main`` or the xdist worker's name.
        server: what the controller said about the server that all workers share; empty where there is none.
        store: where the processes of the run share the outcomes of setups; "" in the first of them.
        notify: shows the user a line while a test runs.
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
        notify: Notify = lambda text, item: None,
    ) -> None:
        self.config = config
        self.settings = settings
        self.run_id = run_id
        self.worker_id = worker_id
        self.server = RunServer(settings, run_id=run_id, worker_id=worker_id, server=server)
        self.store = SharedStore(store)
        self.signals = Signals(enabled=settings.signals)
        self.error = ""
        """Why the sweep at the end stopped early, or ""."""
        self.test_started = 0.0
        """``clock.monotonic()`` when the test that is running began; seconds."""
        self._notify = notify
        self._process = os.getpid()
        self._provisioner: Provisioner | None = None
        self._final = Tally()
        self._failures: list[str] = []
        self._noted_failures = 0
        self._item: pytest.Item | None = None
        self._in_body = False
        self._is_fixture_hidden = False
        self._recent: list[Sandbox] = []

    @property
    def is_worker(self) -> bool:
        """Whether another process controls this one."""
        return hasattr(self.config, "workerinput")

    @property
    def is_fork(self) -> bool:
        """Whether a test has forked this process: what the run holds, and what it reports, is its parent's."""
        return os.getpid() != self._process

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks of the running test."""
        # A test's own relay, so that the conftest.py of a directory applies to the tests in it only.
        return self._item.ihook if self._item is not None else self.config.hook

    @property
    def tally(self) -> Tally:
        """What became of this process's sandboxes so far."""
        counts = self._final if self._provisioner is None else self._provisioner.tally
        return replace(counts, failures=tuple(self._failures))

    @contextmanager
    def test(self, item: pytest.Item) -> Iterator[None]:
        """Know which test is running, from its set-up to its teardown."""
        self._item = item
        self._recent = self._open
        self.test_started = monotonic()
        try:
            yield
        finally:
            self._item = None

    @contextmanager
    def part(self, *, body: bool) -> Iterator[None]:
        """Know whether a test's own body is running, or a fixture that it may have asked for."""
        before, self._in_body = self._in_body, body
        try:
            yield
        finally:
            self._in_body = before

    def note_fixture(self, name: str) -> None:
        """Know that a fixture is set up; a test does not list what ``getfixturevalue`` asks for."""
        if name in _OUTPUT_FIXTURES and name not in self._fixtures:
            self._is_fixture_hidden = True

    @property
    def may_show_output(self) -> bool:
        """Whether what pytest shows of the running test may come out of a sandbox.

        It may where the test has one of our fixtures, also by way of another fixture, or has used a sandbox. Once
        ``getfixturevalue`` has asked for one of them, any later test may have it in the same way.
        """
        return self._is_fixture_hidden or not _OUTPUT_FIXTURES.isdisjoint(self._fixtures) or bool(self.used_by_test())

    def used_by_test(self) -> list[Sandbox]:
        """Return the sandboxes that the running test created or ran a command in, oldest first."""
        return [sandbox for sandbox in self._recent if _last_use(sandbox) >= self.test_started]

    def client(self) -> Client:
        """Return the client of the run's server.

        Raises:
            ServerStartError: no server can be started or reached.
        """
        self.check_server()
        return self.server.client()

    def check_server(self, *, within: float = 0.0) -> None:
        """Look whether a server of ours has ended by itself: the embedded one takes its sandboxes and snapshots along.

        Args:
            within: how long to wait for its end, where there is reason to expect it; seconds.
        """
        if self.is_fork:
            return
        self._failures += self.server.replace_ended()
        self.server.find_failure(within=within)
        for failure in self.server.failures[self._noted_failures :]:
            self._noted_failures += 1
            self._failures.append(failure.line(worker_id=self.worker_id, nodeid=self._nodeid))
            if self._provisioner is not None:
                self._provisioner.write_off()

    def renew_server(self) -> None:
        """Start the embedded server again where it has ended, before a test that holds a client of it."""
        self.check_server()
        if self.server.is_down:
            # Where it does not start, the test gets the error when it asks for a sandbox.
            with suppress(ServerStartError):
                self.server.client()

    def acquire(self, request: ResolvedRequest) -> Sandbox:
        """Create a sandbox; one that a test's own body asks for is released with that test.

        Raises:
            ConfigError: a hook's change to the request breaks a rule.
            ServerStartError: no server can be started or reached.
            OpenSandboxError: the server refuses, or the sandbox does not become ready.
        """
        self.check_server()
        request = replace(request, opts=self._changed_by_hooks(request.opts))
        try:
            sandbox = self._started().acquire(request, test=self._nodeid)
        except OpenSandboxError:
            self.check_server()
            raise
        self._recent.append(sandbox)
        try:
            if self._in_body and self._item is not None:
                self._item.addfinalizer(lambda: self.release(sandbox))
            self.hook.pytest_opensandbox_created(config=self.config, sandbox=sandbox, nodeid=self._nodeid)
        except BaseException:
            self.release(sandbox)
            raise
        return sandbox

    def release(self, sandbox: Sandbox) -> None:
        """Delete one sandbox and call the hook, once; what cannot be deleted now is left to the sweep."""
        if self._item is None:
            # While a test runs, its teardown has looked already.
            self.check_server()
        if self._provisioner is not None and self._provisioner.release(sandbox):
            self.hook.pytest_opensandbox_closed(config=self.config, sandbox=sandbox)

    def release_closed(self) -> None:
        """Call the hook for the sandboxes that a test or a fixture has closed by itself."""
        self._release_each([sandbox for sandbox in self._open if sandbox.closed])

    def release_all(self) -> None:
        """Delete every sandbox that is still open, the newest first."""
        self._release_each(self._open)

    def finish(self) -> None:
        """Delete what is open, sweep what is this process's to sweep, stop its server; safe to call again.

        In a fork, only what the fork has created itself is deleted.
        """
        if self.is_fork:
            self.release_all()
            return
        self.check_server()
        if self._provisioner is not None:
            self.release_all()
            self._provisioner.close()
            # Where the server could not be reached at all, asking it again would only make the user wait.
            unanswered = self._provisioner.unanswered
            is_vain = self.server.is_down or (self.server.is_refused and not unanswered)
            final = self.tally if is_vain else self._swept(self.tally, unanswered)
            self._provisioner, self._final = None, final
        self.server.close()
        if self.server.owns_server and not self.server.left_sandboxes:
            # It takes with it what a sweep could not delete.
            self._final = self._final.after_sweep(deleted=(), left=(), complete=True)
        self.store.clear()

    def sweep(self, *, worker_id: str | None = None, unanswered: Sequence[str] = ()) -> SweepReport:
        """Delete what the whole run, or one of its workers, left on the server.

        Args:
            worker_id: the worker; None for all.
            unanswered: tags of creates that may still be under way.

        Raises:
            ServerStartError: no server can be started or reached.
        """
        # Lazy: only a run that asked for a sandbox pays for HTTP.
        from pytest_opensandbox.cleanup.targets import SandboxTarget

        client = self._sweep_client()
        return SandboxTarget(client, run_id=self.run_id, worker_id=worker_id, unanswered=unanswered).sweep()

    def sweep_snapshots(self, tally: Tally, *, also_unreported: bool = False) -> Tally:
        """Delete the snapshots of the whole run, and return the tally with those that stay.

        Args:
            tally: of the run; where it counts no snapshot the server is not asked.
            also_unreported: whether there may be some all the same.

        Raises:
            ServerStartError: no server can be started or reached.
        """
        if not (tally.setups.has_snapshots or also_unreported):
            return tally
        # Lazy, as above.
        from pytest_opensandbox.cleanup.targets import SnapshotTarget

        report = SnapshotTarget(self._sweep_client(), run_id=self.run_id).sweep()
        self.error = self.error or report.error
        return replace(tally, setups=tally.setups + SetupTally(left=report.left))

    @property
    def _nodeid(self) -> str:
        return self._item.nodeid if self._item is not None else ""

    @property
    def _fixtures(self) -> list[str]:
        return getattr(self._item, "fixturenames", [])

    @property
    def _open(self) -> list[Sandbox]:
        return [] if self._provisioner is None else self._provisioner.open

    def _started(self) -> Provisioner:
        """Return the provisioner; the first call starts the server where that is ours to do."""
        if self._provisioner is None:
            # Lazy: only a run that asks for a sandbox pays for HTTP.
            from pytest_opensandbox.provisioning.provisioner import Provisioner

            self.signals.take()
            remove_abandoned()
            remember(self.config, self.run_id, self.settings)
            self._provisioner = Provisioner(
                self.server,
                tags=RunTags(self.run_id, self.worker_id, self.settings.project),
                settings=self.settings,
                store=self.store,
                notify=lambda text: self._notify(text, self._item),
            )
        return self._provisioner

    def _changed_by_hooks(self, opts: SandboxOpts) -> SandboxOpts:
        changed = self.hook.pytest_opensandbox_opts(config=self.config, opts=opts, nodeid=self._nodeid)
        if changed is None:
            return opts
        if not isinstance(changed, SandboxOpts):
            raise ConfigError("what pytest_opensandbox_opts returns", "be SandboxOpts or None", changed)
        return changed

    def _release_each(self, sandboxes: Sequence[Sandbox]) -> None:
        # A hook that fails for one of them, or Ctrl-C, must not keep the others from being deleted.
        with ExitStack() as stack:
            for sandbox in sandboxes:
                stack.callback(self.release, sandbox)

    def _sweep_client(self) -> Client:
        return self.client() if self._provisioner is None else self._provisioner.client

    def _swept(self, tally: Tally, unanswered: Sequence[str]) -> Tally:
        """Return the tally after this process's own sweep.

        A worker of a shared server leaves that to the controller, but for creates of which only it knows.
        """
        is_sharing = self.is_worker and not self.server.owns_server
        if is_sharing and not unanswered:
            return tally
        report = self.sweep(worker_id=self.worker_id if is_sharing else None, unanswered=unanswered)
        self.error = "" if self.server.owns_server else report.error
        after = tally.after_sweep(deleted=report.deleted, left=report.left, complete=not self.error)
        return after if is_sharing or self.server.owns_server else self.sweep_snapshots(after)


def _last_use(sandbox: Sandbox) -> float:
    """Return when a sandbox was created or began its last command; ``clock.monotonic()`` seconds."""
    return max([sandbox.started, *(record.started for record in sandbox.history)])
