"""Sandboxes that a setup has prepared: it runs once, and the sandbox of each test is restored from what it left.

Where there are no snapshots the setup runs in each sandbox instead.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

from pytest_opensandbox.client.sandbox_opts import POOL_EXTENSION, SandboxOpts
from pytest_opensandbox.errors import (
    TIME_LIMIT,
    ApiError,
    CommandError,
    CommandStartError,
    CommandTimeoutError,
    OpenSandboxError,
    SetupError,
    SnapshotFailedError,
)
from pytest_opensandbox.provisioning.setup import SandboxSetup
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.progress import Progress
from pytest_opensandbox.sandbox.sandbox import Sandbox
from pytest_opensandbox.sandbox.snapshot import lacks_snapshots
from pytest_opensandbox.sandbox.tracking import SetupTally

_SNAPSHOT, _LABELS, _LACKING, _ERROR, _FACTS = "snapshot", "labels", "lacking", "error", "facts"
# What would go wrong in the same way for every test that asks for it.
_REMEMBERED: Mapping[str, Callable[..., OpenSandboxError]] = {
    "SetupError": SetupError,
    "SnapshotFailedError": SnapshotFailedError,
}
_NOT_OF_THE_KEY = ("metadata", "timeout")


class Launch(Protocol):
    """Creates a sandbox that the run will delete; ``image`` is what it is called where it is not made from one."""

    def __call__(self, opts: SandboxOpts, *, image: str = "") -> Sandbox:
        """Return it, ready."""


class SetupCache:
    """Makes sandboxes with a setup behind them, for one process.

    Args:
        store: where the processes of the run leave what they have made.
        progress: says what a long wait is for.
        discard: deletes a sandbox that nobody needs, and does not fail.
    """

    def __init__(self, store: SharedStore, *, progress: Progress, discard: Callable[[Sandbox], object]) -> None:
        self.tally = SetupTally()
        """What was done so far."""
        self._store = store
        self._progress = progress
        self._discard = discard

    def make(self, opts: SandboxOpts, preparation: SandboxSetup, launch: Launch, *, scope: str) -> Sandbox:
        """Return a fresh sandbox in which the preparation has been done, here or in the one it was restored from.

        Args:
            opts: what the server is asked for.
            preparation: what is done in it.
            launch: creates one.
            scope: "" where all processes of the run share one server, else a name of this server alone.

        Raises:
            ConfigError: a file that is to be put in cannot be read.
            SetupError: a command did not exit with 0, now or before in this run.
            SnapshotFailedError: the snapshot failed, now or before in this run.
            OpenSandboxError: the server refuses, or the sandbox does not become ready.
        """
        key = _key(scope, opts, preparation)
        # Copying files alone is quicker than to snapshot and restore them.
        made = self._store.find(key) if preparation.commands else {_LACKING: ""}
        if made is None:
            made, box = self._make_once(key, opts, preparation, launch)
            if box is not None:
                return box
        if _ERROR in made:
            raise _told_again(made)
        if _LACKING in made:
            return self._prepare_one(launch(opts), preparation, made[_LACKING])
        # A snapshot hands labels down: those of the test for which the setup was run are not this test's.
        metadata = {**dict.fromkeys(made[_LABELS], ""), **opts.metadata}
        restored = replace(opts, image=None, snapshot_id=made[_SNAPSHOT], metadata=metadata)
        box = launch(restored, image=opts.image or "")
        box.prepared_by = preparation.title
        self.tally += SetupTally(restored=1)
        return box

    def _make_once(
        self, key: str, opts: SandboxOpts, preparation: SandboxSetup, launch: Launch
    ) -> tuple[Mapping[str, Any], Sandbox | None]:
        """Return what was made for a key, and the prepared sandbox itself where it could not be kept."""
        with ExitStack() as stack:
            with self._progress.phases() as phases:
                phases.enter(f"another worker runs the setup `{preparation.title}`")
                stack.enter_context(self._store.locked(key))
            made = self._store.find(key)
            if made is not None:
                return made, None
            made, box = self._build(key, opts, preparation, launch)
            self._store.store(key, made)
        if _LACKING in made:
            return made, box
        # Not under the lock: the others need not wait for it.
        self._discard(box)
        return made, None

    def _build(
        self, key: str, opts: SandboxOpts, preparation: SandboxSetup, launch: Launch
    ) -> tuple[Mapping[str, Any], Sandbox]:
        """Prepare one sandbox and keep it; trouble that would come again is stored for the others."""
        started = time.monotonic()
        box = launch(opts)
        try:
            spent = self._apply(box, preparation)
            made = _keep(box, opts, name=f"setup-{key[:12]}")
        except BaseException as exc:
            if type(exc).__name__ in _REMEMBERED:
                self._store.store(key, {_ERROR: type(exc).__name__, _FACTS: vars(exc)})
            self._discard(box)
            raise
        if _LACKING in made:
            self.tally += SetupTally(repeated=1, repeated_seconds=spent, reasons=(made[_LACKING],))
        else:
            self.tally += SetupTally(built=1, seconds=time.monotonic() - started)
        return made, box

    def _prepare_one(self, box: Sandbox, preparation: SandboxSetup, reason: str) -> Sandbox:
        """Prepare a sandbox that is for one test only."""
        try:
            spent = self._apply(box, preparation)
        except BaseException:
            self._discard(box)
            raise
        if preparation.commands:
            self.tally += SetupTally(repeated=1, repeated_seconds=spent, reasons=(reason,))
        return box

    def _apply(self, box: Sandbox, preparation: SandboxSetup) -> float:
        """Put the files, run the commands, and return how long it took; seconds."""
        started = time.monotonic()
        try:
            with self._progress.phases() as phases:
                phases.enter(f"running the setup `{preparation.title}` in sandbox {box.id}")
                for source, target in preparation.files:
                    box.put(source, target)
                for command in preparation.commands:
                    box.run(command, check=True, timeout=preparation.timeout)
        except CommandError as exc:
            raise _setup_error(exc, source=box.image) from None
        return time.monotonic() - started


def _keep(box: Sandbox, opts: SandboxOpts, *, name: str) -> Mapping[str, Any]:
    """Return the id of a snapshot of a sandbox, or why there is none."""
    if POOL_EXTENSION in opts.extensions:
        return {_LACKING: "a pool restores no snapshots"}
    try:
        return {_SNAPSHOT: box.snapshot(name).id, _LABELS: list(opts.metadata)}
    except ApiError as exc:
        if lacks_snapshots(exc):
            return {_LACKING: f"{exc.message} ({exc.status} {exc.code})"}
        raise SnapshotFailedError(sandbox_id=box.id, state="refused", message=str(exc)) from None


def _key(scope: str, opts: SandboxOpts, preparation: SandboxSetup) -> str:
    """Return a name for what a sandbox is after its preparation; what does not change that is left out."""
    asked = {name: value for name, value in opts.to_wire().items() if name not in _NOT_OF_THE_KEY}
    text = json.dumps([scope, asked, preparation.fingerprint()], sort_keys=True)
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


def _told_again(made: Mapping[str, Any]) -> OpenSandboxError:
    """Return the error that somebody has met before, without the whole story."""
    facts = dict(made[_FACTS])
    if made[_ERROR] == "SetupError":
        facts["repeated"] = True
    return _REMEMBERED[made[_ERROR]](**facts)
