"""What one pytest process holds for its run: the tags, the way to a server, and the sandboxes that tests asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pluggy
import pytest

from pytest_opensandbox.config import Settings
from pytest_opensandbox.connection import Connection
from pytest_opensandbox.errors import ApiError, AuthError, ConfigError, OpenSandboxError, TransportError
from pytest_opensandbox.opts import SandboxOpts
from pytest_opensandbox.recipe import MARKER, Recipe, read_markers
from pytest_opensandbox.signals import Signals
from pytest_opensandbox.tally import Tally

if TYPE_CHECKING:
    from pytest_opensandbox.client import Client
    from pytest_opensandbox.lifecycle import Lifecycle
    from pytest_opensandbox.sandbox import Sandbox
    from pytest_opensandbox.sweep import SweepReport

RUN = pytest.StashKey["Run"]()
"""Where a process's part of the run lies in ``config.stash``."""

LAST_RUN = "opensandbox/last_run"
"""Where pytest's cache keeps the id of the last run that asked for a sandbox, for ``sweep --run last``."""

Tell = Callable[[str, pytest.Item | None], None]

_RECIPE = pytest.StashKey[Recipe]()


class Run:
    """This process's part of a run: all of it, one worker's, or what the controller of workers does.

    Args:
        config: pytest's configuration.
        settings: what the run was told.
        run_id: the same in all processes of the run.
        worker_id: ``main`` or the xdist worker's name.
        server: what the controller said of the server that all workers share; empty where there is none.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        *,
        run_id: str,
        worker_id: str,
        server: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.settings = settings
        self.run_id = run_id
        self.worker_id = worker_id
        self.connection = Connection(settings, run_id=run_id, server=server)
        self.signals = Signals(enabled=settings.signals)
        self.tell: Tell = lambda text, item: None
        """Shows the user a line while a test runs."""
        self.error = ""
        """Why the sweep at the end stopped early, or ""."""
        self.test_started = 0.0
        """``time.monotonic()`` when the test that is running began; seconds."""
        self._lifecycle: Lifecycle | None = None
        self._final = Tally()
        self._item: pytest.Item | None = None
        self._in_body = False
        self._open: list[Sandbox] = []
        self._recent: list[Sandbox] = []

    @property
    def is_worker(self) -> bool:
        """Whether another process controls this one."""
        return hasattr(self.config, "workerinput")

    @property
    def tally(self) -> Tally:
        """What became of this process's sandboxes so far."""
        if self._lifecycle is None:
            return self._final
        created, left = self._lifecycle.ledger.created, self._lifecycle.ledger.left
        return Tally(created=len(created), deleted=len(created) - len(left), left=left)

    def read_markers(self, items: Sequence[pytest.Item]) -> None:
        """Read what each test asks for, before anything runs.

        Raises:
            pytest.UsageError: markers break rules; names the tests, all of them.
        """
        complaints = []
        for item in items:
            marks = [(mark.args, mark.kwargs) for mark in item.iter_markers(MARKER)]
            try:
                item.stash[_RECIPE] = recipe = read_markers(marks)
                recipe.opts(self.settings)
            except ConfigError as exc:
                complaints.append(f"{item.nodeid}: {exc}")
        if complaints:
            raise pytest.UsageError(*complaints)

    def recipe_of(self, node: pytest.Item) -> Recipe:
        """Return what a test's markers ask for."""
        return node.stash.get(_RECIPE, Recipe())

    @contextmanager
    def test(self, item: pytest.Item) -> Iterator[None]:
        """Know which test is running, from its set-up to its teardown."""
        self._item = item
        self._recent = list(self._open)
        self.test_started = time.monotonic()
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

    def used_by_test(self) -> list[Sandbox]:
        """Return the sandboxes that the running test created or ran a command in, oldest first."""
        return [box for box in self._recent if _last_use(box) >= self.test_started]

    def client(self) -> Client:
        """Return the client of the run's server.

        Raises:
            ServerStartError: no server can be had.
        """
        return self.connection.client()

    def make(self, recipe: Recipe) -> Sandbox:
        """Create a sandbox; one that a test's own body asks for goes with that test.

        Raises:
            ConfigError: the recipe, or a hook's change to it, breaks a rule.
            ServerStartError: no server can be had.
            OpenSandboxError: the server refuses, or the sandbox does not become ready.
        """
        opts = self._changed_by_hooks(recipe.opts(self.settings))
        box = self._launch(opts, command_timeout=recipe.command_timeout(self.settings))
        try:
            if self._in_body and self._item is not None:
                self._item.addfinalizer(lambda: self.close_box(box))
            self._hook.pytest_opensandbox_created(config=self.config, sandbox=box, nodeid=self._nodeid)
        except BaseException:
            self.close_box(box)
            raise
        return box

    def close_box(self, box: Sandbox) -> None:
        """Delete one sandbox; what cannot be deleted now is left to the sweep, so that no test fails for it."""
        try:
            box.close()
        except OpenSandboxError:
            return

    def close_boxes(self) -> None:
        """Delete every sandbox that is still open, the newest first."""
        # A hook that fails for one of them, or Ctrl-C, must not keep the others.
        with ExitStack() as stack:
            for box in self._open:
                stack.callback(self.close_box, box)

    def finish(self) -> None:
        """Delete what is open, sweep what is this process's to sweep, stop its server; safe to call again."""
        if self._lifecycle is not None:
            self.close_boxes()
            self._lifecycle.close()
            # Where the server could not be reached at all, asking it again would only make the user wait.
            final = self.tally if self.connection.is_refused else self._swept(self.tally)
            self._lifecycle, self._final = None, final
        self.connection.close()

    def sweep(self, *, worker_id: str | None = None) -> SweepReport:
        """Delete what the whole run, or one of its workers, left on the server.

        Raises:
            ServerStartError: no server can be had.
        """
        # Lazy: only a run that asked for a sandbox pays for HTTP.
        from pytest_opensandbox.sweep import sweep

        client = self._lifecycle.client if self._lifecycle else self.client()
        return sweep(client, run_id=self.run_id, worker_id=worker_id)

    @property
    def _nodeid(self) -> str:
        return self._item.nodeid if self._item is not None else ""

    @property
    def _hook(self) -> pluggy.HookRelay:
        # A test's own relay, so that the conftest.py of a directory speaks for the tests in it only.
        return self._item.ihook if self._item is not None else self.config.hook

    def _changed_by_hooks(self, opts: SandboxOpts) -> SandboxOpts:
        changed = self._hook.pytest_opensandbox_opts(config=self.config, opts=opts, nodeid=self._nodeid)
        if changed is None:
            return opts
        if not isinstance(changed, SandboxOpts):
            raise ConfigError("what pytest_opensandbox_opts returns", "be SandboxOpts or None", changed)
        return changed

    def _launch(self, opts: SandboxOpts, *, command_timeout: float) -> Sandbox:
        # Lazy, as above.
        from pytest_opensandbox.sandbox import Sandbox

        lifecycle = self._begin()
        self.connection.check_image(opts)
        try:
            box = Sandbox.launch(lifecycle, opts, test=self._nodeid, command_timeout=command_timeout)
        except (AuthError, TransportError) as exc:
            if lifecycle.ledger.created:
                raise
            raise self.connection.refuse(exc) from exc
        except ApiError as exc:
            self.connection.refuse_image(opts, exc)
            raise
        self._open.append(box)
        self._recent.append(box)
        box.call_on_close(self._forget)
        return box

    def _begin(self) -> Lifecycle:
        # Lazy, as above.
        from pytest_opensandbox.lifecycle import Lifecycle, RunTags

        if self._lifecycle is None:
            self.signals.take()
            if cache := getattr(self.config, "cache", None):
                cache.set(LAST_RUN, self.run_id)
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

    def _tell_of_wait(self, text: str) -> None:
        self.tell(text, self._item)

    def _forget(self, box: Sandbox) -> None:
        if box in self._open:
            self._open.remove(box)
        self._hook.pytest_opensandbox_closed(config=self.config, sandbox=box)

    def _swept(self, tally: Tally) -> Tally:
        """Return the tally after this process's own sweep; a worker of a shared server leaves it to the controller."""
        if self.is_worker and not self.connection.owns_server:
            return tally
        report = self.sweep()
        self.error = "" if self.connection.owns_server else report.error
        # A server that is ours takes with it what a sweep could not delete.
        left = () if self.connection.owns_server else report.left
        return tally.after_sweep(deleted=report.deleted, left=left, complete=not self.error)


def _last_use(box: Sandbox) -> float:
    """Return when a sandbox was made or began its last command; ``time.monotonic()`` seconds."""
    return max([box.started, *(record.started for record in box.history)])
