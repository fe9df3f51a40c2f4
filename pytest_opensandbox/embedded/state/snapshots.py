"""The snapshots of this server: their states, their layers, and the sandboxes that use them."""

from __future__ import annotations

import os
import subprocess
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_opensandbox.embedded.errors import refuse
from pytest_opensandbox.embedded.runtime.directories import SnapshotLayers, SnapshotSource
from pytest_opensandbox.embedded.runtime.log import format_time
from pytest_opensandbox.embedded.runtime.process_tree import knows_children
from pytest_opensandbox.embedded.runtime.sandbox_process import LaunchContext

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.state.sandboxes import SandboxRecord

MAX_LAYERS = 64

_AT_A_TIME = 2


class SnapshotRecord:
    """One snapshot as the lifecycle API knows it.

    Attributes:
        id: uuid4 as text.
        sandbox_id: the sandbox that it was taken of.
        labels: those of that sandbox, which restored sandboxes inherit.
        name: as given, None without one.
        created_at: when, in UTC.
        state: Creating, Ready, Failed or Deleting.
        layers: directories with its files, lowest first; its own is the last.
        ids: the host's ids of the owners of its files.
        users: ids of the existing sandboxes that were restored from it.
    """

    def __init__(self, sandbox: SandboxRecord, name: str | None, layers: Sequence[Path]) -> None:
        self.id = str(uuid.uuid4())
        self.sandbox_id = sandbox.id
        self.labels = dict(sandbox.labels)
        self.name = name
        self.created_at = datetime.now(timezone.utc)
        self.layers = tuple(layers)
        self.ids = sandbox.process.ids
        self.users: set[str] = set()
        self.change("Creating", "snapshot_accepted", "Snapshot creation accepted.")
        self._changed_at = self.created_at

    def change(self, state: str, reason: str, message: str) -> None:
        """Set the state, reason and message, as the Docker runtime gives them."""
        self._changed_at = datetime.now(timezone.utc)
        self._reason, self._message = reason, message
        self.state = state

    def describe(self) -> dict[str, object]:
        """Return the snapshot as a response to a get or a listing."""
        described = {
            "id": self.id,
            "sandboxId": self.sandbox_id,
            "name": self.name,
            "status": {
                "state": self.state,
                "reason": self._reason,
                "message": self._message,
                "lastTransitionAt": format_time(self._changed_at),
            },
            "createdAt": format_time(self.created_at),
        }
        return {name: value for name, value in described.items() if value is not None}


class SnapshotRegistry:
    """All snapshots, newest last; no directory or thread exists before the first.

    Args:
        context: everything that the start of a sandbox needs.
    """

    def __init__(self, context: LaunchContext) -> None:
        self._context = context
        self._snapshots: dict[str, SnapshotRecord] = {}
        self._lock = threading.Lock()
        self._layers = SnapshotLayers()
        self._takers: ThreadPoolExecutor | None = None
        self._copiers: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False

    def create(self, sandbox: SandboxRecord, name: str | None) -> dict[str, object]:
        """Start to take a snapshot, and return its description; it can be restored once it is ready.

        Raises:
            RefusedError: the sandbox is not running, or this machine cannot take snapshots.
        """
        if sandbox.status[0] != "Running":
            message = "Snapshot can only be created from a Running sandbox."
            refuse(409, "SNAPSHOT::INVALID_SOURCE_STATE", message)
        if reason := self._why_unsupported(sandbox):
            refuse(409, "SNAPSHOT::UNSUPPORTED_RUNTIME", f"No snapshot can be taken here: {reason}.")
        with self._lock:
            try:
                layers = [*self._layers_below(sandbox), self._layers.new()]
            except OSError as error:
                refuse(409, "SNAPSHOT::RUNTIME_PREFLIGHT_FAILED", f"There is no place for a snapshot: {error}")
            snapshot = SnapshotRecord(sandbox, name, layers)
            if snapshot.ids and self._context.identities:
                self._context.identities.retain(snapshot.ids)
            described = snapshot.describe()
            self._snapshots[snapshot.id] = snapshot
            self._takers = self._takers or ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="snapshot")
            self._takers.submit(self._take, snapshot, sandbox)
        return described

    def get(self, snapshot_id: str) -> SnapshotRecord:
        """Return one snapshot.

        Raises:
            RefusedError: there is none with this id.
        """
        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None:
            refuse(404, "SNAPSHOT::NOT_FOUND", f"Snapshot {snapshot_id} not found")
        return snapshot

    def find(self, *, sandbox_id: str | None, name: str | None, states: Sequence[str]) -> list[SnapshotRecord]:
        """Return the snapshots of a sandbox, of a name, in one of the states, newest first.

        Args:
            sandbox_id: None or empty for any.
            name: exact; None for any.
            states: as they are written; none means all.
        """
        with self._lock:
            newest_first = list(reversed(self._snapshots.values()))
        return [
            snapshot
            for snapshot in newest_first
            if (not sandbox_id or snapshot.sandbox_id == sandbox_id)
            and (name is None or snapshot.name == name)
            and (not states or snapshot.state in states)
        ]

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot, and the layers that no other snapshot has.

        Raises:
            RefusedError: there is none with this id, it is being created, or a sandbox uses it.
        """
        with self._lock:
            snapshot = self.get(snapshot_id)
            if snapshot.state == "Creating":
                message = f"Snapshot {snapshot_id} is still being created and cannot be deleted"
                refuse(409, "SNAPSHOT::INVALID_STATE", message)
            if snapshot.state != "Deleting":
                snapshot.change("Deleting", "snapshot_delete_requested", "Snapshot deletion requested.")
            if snapshot.users:
                message = "snapshot image cannot be deleted due to a conflict"
                refuse(409, "SNAPSHOT::DELETE_CONFLICT", f"{message}: a sandbox made from it is still there")
            del self._snapshots[snapshot_id]
            kept = {layer for other in self._snapshots.values() for layer in other.layers}
        self._layers.drop(set(snapshot.layers) - kept)
        if snapshot.ids and self._context.identities:
            self._context.identities.release(snapshot.ids)

    def check(self, snapshot_id: str) -> None:
        """Check that a snapshot can be restored.

        Raises:
            RefusedError: there is none with this id, or it is not ready.
        """
        if self.get(snapshot_id).state != "Ready":
            refuse(409, "SNAPSHOT::NOT_READY", f"Snapshot {snapshot_id} is not ready for restore.")

    def acquire(self, snapshot_id: str, sandbox_id: str) -> SnapshotSource:
        """Return what a restored sandbox needs; the snapshot then stays until the sandbox is deleted.

        Raises:
            RefusedError: there is none with this id, or it is not ready.
        """
        with self._lock:
            self.check(snapshot_id)
            snapshot = self.get(snapshot_id)
            snapshot.users.add(sandbox_id)
        return SnapshotSource(snapshot.layers, snapshot.ids)

    def labels_in(self, snapshot_id: str) -> Mapping[str, str]:
        """Return the labels that a sandbox inherits from a snapshot, none without a snapshot."""
        snapshot = self._snapshots.get(snapshot_id)
        return snapshot.labels if snapshot else {}

    def release(self, snapshot_id: str, sandbox_id: str) -> None:
        """Note that a sandbox is deleted; without a snapshot nothing happens."""
        if snapshot := self._snapshots.get(snapshot_id):
            snapshot.users.discard(sandbox_id)

    def close(self) -> None:
        """Stop the running copies, and remove all layers."""
        self._is_closed = True
        for copier in list(self._copiers):
            copier.kill()
        if self._takers:
            self._takers.shutdown(cancel_futures=True)
        self._layers.close()

    def _layers_below(self, sandbox: SandboxRecord) -> tuple[Path, ...]:
        """Return the layers below what a sandbox writes; none where each snapshot is a complete copy."""
        source = sandbox.request.snapshot_id
        return self.get(source).layers if source and self._context.bubblewrap.is_copy_on_write else ()

    def _why_unsupported(self, sandbox: SandboxRecord) -> str:
        """Return why no snapshot of a sandbox can be taken, "" if one can."""
        if not self._context.bubblewrap.outer_options:
            return "this machine refuses nested namespaces, and without them a sandbox's files are out of reach"
        if not knows_children():
            return "no /proc/PID/task/TID/children in this kernel"
        if len(self._layers_below(sandbox)) >= MAX_LAYERS:
            return f"{MAX_LAYERS} snapshots lie upon each other already"
        return ""

    def _take(self, snapshot: SnapshotRecord, sandbox: SandboxRecord) -> None:
        """Take a snapshot, and set its state to Ready or Failed."""
        reason = "snapshot_runtime_failed"
        try:
            self._copy(snapshot, sandbox)
        except TimeoutError as error:
            reason, message = "snapshot_runtime_timeout", str(error)
        except Exception as error:  # noqa: BLE001 - else the snapshot would stay "Creating"
            message = str(error)
        else:
            snapshot.change("Ready", "snapshot_runtime_ready", "Docker snapshot image created successfully.")
            return
        self._layers.drop(snapshot.layers[-1:])
        snapshot.change("Failed", reason, message)

    def _copy(self, snapshot: SnapshotRecord, sandbox: SandboxRecord) -> None:
        """Freeze the sandbox, and copy what it wrote."""
        from pytest_opensandbox.embedded.runtime.snapshot_files import capture  # lazily, as most runs have no snapshots

        sandbox.process.wait_started()
        with sandbox.lock:
            was_paused = sandbox.is_paused
            if not was_paused:
                sandbox.process.freeze()
            try:
                outer_process = sandbox.process.open_outer_process()
                try:
                    capture(
                        self._context.host,
                        outer_process,
                        snapshot.layers[-1],
                        is_copy_on_write=self._context.bubblewrap.is_copy_on_write,
                        is_restored=len(snapshot.layers) > 1,
                        ids=snapshot.ids,
                        on_start=self._watch,
                    )
                finally:
                    os.close(outer_process)
            finally:
                if not was_paused:
                    sandbox.process.thaw()

    def _watch(self, copier: subprocess.Popen[bytes]) -> None:
        """Remember a copier, to end it with the server."""
        with self._lock:
            self._copiers = {known for known in self._copiers if known.returncode is None} | {copier}
        if self._is_closed:
            copier.kill()
