"""Setups that run once in a run: the sandbox of each test is restored from the snapshot that was taken after it.

Where there are no snapshots the setup runs in each sandbox instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

from pytest_opensandbox.advice import TIME_LIMIT
from pytest_opensandbox.client.sandbox_opts import POOL_EXTENSION, SandboxOpts
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import (
    ApiError,
    CommandError,
    CommandStartError,
    CommandTimeoutError,
    SetupError,
    SnapshotFailedError,
)
from pytest_opensandbox.provisioning.setup import SandboxSetup
from pytest_opensandbox.provisioning.setup_outcome import (
    FailedSetup,
    FailedSnapshot,
    Kept,
    NotKept,
    SetupOutcome,
    from_json,
    to_json,
)
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.progress import Progress
from pytest_opensandbox.sandbox.sandbox import Sandbox
from pytest_opensandbox.sandbox.snapshot import lacks_snapshots
from pytest_opensandbox.sandbox.tracking import SetupTally

_NOT_OF_THE_KEY = ("metadata", "timeout")


class Launch(Protocol):
    """Creates a sandbox; ``image`` is the name to show for one that is not created from an image."""

    def __call__(self, opts: SandboxOpts, *, image: str = "") -> Sandbox:
        """Return the sandbox, ready."""


class SetupCache:
    """Gives sandboxes with a setup done, to one process; runs each setup once in the run.

    Args:
        store: where the processes of the run share the outcomes.
        progress: shows what a long wait is for.
        discard: deletes a sandbox that no test gets; does not raise.
    """

    def __init__(self, store: SharedStore, *, progress: Progress, discard: Callable[[Sandbox], object]) -> None:
        self.tally = SetupTally()
        """What was done so far."""
        self._store = store
        self._progress = progress
        self._discard = discard

    def acquire(self, opts: SandboxOpts, setup: SandboxSetup, launch: Launch, *, scope: str) -> Sandbox:
        """Return a fresh sandbox in which the setup was done, here or in the one that it is restored from.

        Args:
            opts: what the server is asked for.
            setup: what is done in it.
            launch: creates a sandbox.
            scope: "" where all processes of the run share one server, else a name of this server alone.

        Raises:
            ConfigError: a file that is to be put in cannot be read.
            SetupError: a command did not exit with 0, now or before in this run.
            SnapshotFailedError: the snapshot failed, now or before in this run.
            OpenSandboxError: the server refuses, or the sandbox does not become ready.
        """
        key = _key(scope, opts, setup)
        if not setup.commands:
            # Copying files alone is quicker than to snapshot and restore them.
            return self._set_up(launch(opts), setup, reason="")
        outcome = self._find(key)
        if outcome is None:
            outcome, sandbox = self._build_once(key, opts, setup, launch)
            if sandbox is not None:
                return sandbox
        if isinstance(outcome, (FailedSetup, FailedSnapshot)):
            raise outcome.error()
        if isinstance(outcome, NotKept):
            return self._set_up(launch(opts), setup, reason=outcome.reason)
        return self._restore(outcome, opts, setup, launch)

    def _find(self, key: str) -> SetupOutcome | None:
        found = self._store.find(key)
        return None if found is None else from_json(found)

    def _build_once(
        self, key: str, opts: SandboxOpts, setup: SandboxSetup, launch: Launch
    ) -> tuple[SetupOutcome, Sandbox | None]:
        """Return the outcome for a key, and the sandbox itself where no snapshot could keep it."""
        with ExitStack() as stack:
            with self._progress.phases() as phases:
                phases.enter(f"another worker runs the setup `{setup.title}`")
                stack.enter_context(self._store.locked(key))
            found = self._find(key)
            if found is not None:
                return found, None
            outcome, sandbox = self._build(key, opts, setup, launch)
            self._store.store(key, to_json(outcome))
        if isinstance(outcome, NotKept):
            return outcome, sandbox
        # Not under the lock: the others need not wait for it.
        self._discard(sandbox)
        return outcome, None

    def _build(
        self, key: str, opts: SandboxOpts, setup: SandboxSetup, launch: Launch
    ) -> tuple[Kept | NotKept, Sandbox]:
        """Set up one sandbox and take a snapshot; a failure that would come again is stored for the others."""
        started = monotonic()
        sandbox = launch(opts)
        try:
            spent = self._apply(sandbox, setup)
            outcome = _keep(sandbox, opts, name=f"setup-{key[:12]}")
        except BaseException as exc:
            if isinstance(exc, (SetupError, SnapshotFailedError)):
                failed = FailedSetup.of(exc) if isinstance(exc, SetupError) else FailedSnapshot.of(exc)
                self._store.store(key, to_json(failed))
            self._discard(sandbox)
            raise
        if isinstance(outcome, NotKept):
            self.tally += SetupTally(repeated=1, repeated_seconds=spent, reasons=(outcome.reason,))
        else:
            self.tally += SetupTally(built=1, seconds=monotonic() - started)
        return outcome, sandbox

    def _restore(self, kept: Kept, opts: SandboxOpts, setup: SandboxSetup, launch: Launch) -> Sandbox:
        # A sandbox inherits the labels of its snapshot: those of the test that ran the setup are not this test's.
        metadata = {**dict.fromkeys(kept.labels, ""), **opts.metadata}
        restored = replace(opts, image=None, snapshot_id=kept.snapshot_id, metadata=metadata)
        sandbox = launch(restored, image=opts.image or "")
        sandbox.prepared_by = setup.title
        self.tally += SetupTally(restored=1)
        return sandbox

    def _set_up(self, sandbox: Sandbox, setup: SandboxSetup, *, reason: str) -> Sandbox:
        """Run the setup in a sandbox that is for one test only."""
        try:
            spent = self._apply(sandbox, setup)
        except BaseException:
            self._discard(sandbox)
            raise
        if setup.commands:
            self.tally += SetupTally(repeated=1, repeated_seconds=spent, reasons=(reason,))
        return sandbox

    def _apply(self, sandbox: Sandbox, setup: SandboxSetup) -> float:
        """Put the files, run the commands, and return how long it took; seconds."""
        started = monotonic()
        try:
            with self._progress.phases() as phases:
                phases.enter(f"running the setup `{setup.title}` in sandbox {sandbox.id}")
                for source, target in setup.files:
                    sandbox.put(source, target)
                for command in setup.commands:
                    sandbox.run(command, check=True, timeout=setup.timeout)
        except CommandError as exc:
            raise _setup_error(exc, source=sandbox.image) from None
        return monotonic() - started


def _keep(sandbox: Sandbox, opts: SandboxOpts, *, name: str) -> Kept | NotKept:
    """Take a snapshot of a sandbox; return its id, or why there is none."""
    if POOL_EXTENSION in opts.extensions:
        return NotKept(reason="a pool restores no snapshots")
    try:
        return Kept(snapshot_id=sandbox.snapshot(name).id, labels=tuple(opts.metadata))
    except ApiError as exc:
        if lacks_snapshots(exc):
            return NotKept(reason=f"{exc.message} ({exc.status} {exc.code})")
        raise SnapshotFailedError(sandbox_id=sandbox.id, state="refused", message=str(exc)) from None


def _key(scope: str, opts: SandboxOpts, setup: SandboxSetup) -> str:
    """Return a name for a sandbox and its setup; what does not change the result is left out."""
    asked = {name: value for name, value in opts.to_wire().items() if name not in _NOT_OF_THE_KEY}
    text = json.dumps([scope, asked, setup.fingerprint()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _setup_error(error: CommandError, *, source: str) -> SetupError:
    why = ""
    if isinstance(error, CommandTimeoutError):
        why = f"was ended after {error.timeout_seconds:g} s, {TIME_LIMIT}"
    elif isinstance(error, CommandStartError):
        why = "could not be started"
    elif error.exit_code < 0:
        why = f"was ended by signal {-error.exit_code}"
    return SetupError(
        error.command,
        exit_code=error.exit_code,
        stdout=error.stdout,
        stderr=error.stderr,
        sandbox_id=error.sandbox_id,
        source=source,
        why=why,
    )
