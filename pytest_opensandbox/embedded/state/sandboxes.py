"""The sandboxes of this server: their records, their states and their ends."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pytest_opensandbox.embedded.errors import RefusedError, refuse
from pytest_opensandbox.embedded.runtime.agent_connections import Relay
from pytest_opensandbox.embedded.runtime.log import format_time
from pytest_opensandbox.embedded.runtime.sandbox_process import END_SECONDS, LaunchContext, SandboxProcess
from pytest_opensandbox.embedded.state.snapshots import SnapshotRegistry

HOST_IMAGE = "host"

_KEPT_EXTENSIONS = "opensandbox.extensions."
_END_POLL_SECONDS = 0.05
_TIMER_SECONDS = 3600


@dataclass(frozen=True)
class CreateRequest:
    """A validated create."""

    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    metadata: Mapping[str, str]
    extensions: Mapping[str, str]
    timeout_seconds: int | None
    """Seconds until the sandbox is deleted, None for never."""
    snapshot_id: str = ""
    """The snapshot to restore, "" for a sandbox of this machine's own system."""
    platform: Mapping[str, str] | None = None
    """``os`` and ``arch`` if the request has them."""


class SandboxRecord:
    """One sandbox as the lifecycle API knows it.

    Attributes:
        id: uuid4 as text.
        request: the create.
        labels: metadata at its creation, with those of its snapshot, as a container has the labels of its image.
        metadata: its labels after the last patch.
        created_at: when, in UTC.
        expires_at: when it is deleted, None for never.
        ended_at: when its entrypoint ended, None while it runs.
        is_paused: its processes are frozen.
        process: its processes on this machine.
        relay: its loopback port.
        timer: deletes it when it expires.
    """

    def __init__(self, request: CreateRequest, context: LaunchContext, inherited: Mapping[str, str]) -> None:
        self.id = str(uuid.uuid4())
        self.request = request
        self.labels = {**inherited, **request.metadata}
        self.metadata = dict(self.labels)
        self.created_at = datetime.now(timezone.utc)
        self.expires_at = expiry(self.created_at, request.timeout_seconds)
        self.ended_at: datetime | None = None
        self.is_paused = False
        self.lock = threading.Lock()
        self.process = SandboxProcess(context, self.id, self._end)
        self.relay = Relay(self.process.agent, self.process.token)
        self.timer: asyncio.TimerHandle | None = None

    @property
    def status(self) -> tuple[str, str, str]:
        """State, reason and message, as the Docker runtime gives them."""
        code = self.process.exit_code
        if code is not None and self.ended_at:
            if code == 0:
                return "Terminated", "CONTAINER_EXITED", "Sandbox container exited successfully."
            why = ", out of memory" if self.process.ran_out_of_memory else ""
            return "Failed", "CONTAINER_EXITED_ERROR", f"Sandbox container exited with code {code}{why}."
        if self.is_paused:
            return "Paused", "CONTAINER_PAUSED", "Sandbox container is paused."
        return "Running", "CONTAINER_RUNNING", "Sandbox container is running."

    def describe(self) -> dict[str, object]:
        """Return the sandbox as a response to a get or a listing."""
        state, reason, message = self.status
        described = {
            "id": self.id,
            "image": None if self.request.snapshot_id else {"uri": HOST_IMAGE},
            "snapshotId": self.request.snapshot_id or None,
            "status": self._status(state, reason, message),
            "metadata": dict(self.metadata) or None,
            "extensions": {
                name: value for name, value in self.request.extensions.items() if name.startswith(_KEPT_EXTENSIONS)
            }
            or None,
            "platform": self.request.platform,
            "entrypoint": list(self.request.entrypoint),
            "expiresAt": self.expires_at and format_time(self.expires_at),
            "createdAt": format_time(self.created_at),
        }
        return {name: value for name, value in described.items() if value is not None}

    def describe_created(self) -> dict[str, object]:
        """Return the sandbox as the response to its create: running, without its image or snapshot."""
        described = {name: value for name, value in self.describe().items() if name not in ("image", "snapshotId")}
        described["status"] = self._status("Running", "CONTAINER_RUNNING", "Sandbox container started successfully.")
        described["metadata"] = dict(self.request.metadata)
        return {name: value for name, value in described.items() if value != {}}

    def _status(self, state: str, reason: str, message: str) -> dict[str, str]:
        changed = self.ended_at if state in ("Terminated", "Failed") and self.ended_at else self.created_at
        return {"state": state, "reason": reason, "message": message, "lastTransitionAt": format_time(changed)}

    def _end(self) -> None:
        """Close the relay, in the background loop."""
        self.ended_at = datetime.now(timezone.utc)
        self.relay.close()


def expiry(created_at: datetime, timeout_seconds: int | None) -> datetime | None:
    """Return when a sandbox ends, None for never.

    Raises:
        RefusedError: the time is later than the last date.
    """
    if timeout_seconds is None:
        return None
    try:
        return created_at + timedelta(seconds=timeout_seconds)
    except OverflowError:
        message = f"Sandbox timeout {timeout_seconds}s is too large to represent safely."
        refuse(400, "SANDBOX::INVALID_PARAMETER", message)


class SandboxRegistry:
    """All sandboxes, newest last.

    Args:
        context: everything that the start of a sandbox needs.
        notes: lines for the log of every sandbox.

    Attributes:
        snapshots: the snapshots of them.
    """

    def __init__(self, context: LaunchContext, notes: Sequence[str] = ()) -> None:
        self.snapshots = SnapshotRegistry(context)
        self._context = context
        self._notes = notes
        self._sandboxes: dict[str, SandboxRecord] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def create(self, request: CreateRequest) -> SandboxRecord:
        """Start a sandbox; its agent may still be starting, connections to it wait.

        Raises:
            RefusedError: it could not be started.
        """
        try:
            record = self._start(request)
        except OSError as error:
            refuse(500, "DOCKER::SANDBOX_START_FAILED", f"No process could be started for the sandbox: {error}")
        with self._lock:
            self._sandboxes[record.id] = record
        if self._is_closed:
            record.process.kill()
        self._schedule(record)
        return record

    def get(self, sandbox_id: str) -> SandboxRecord:
        """Return one sandbox.

        Raises:
            RefusedError: there is none with this id.
        """
        record = self._sandboxes.get(sandbox_id)
        if record is None:
            refuse(404, "DOCKER::SANDBOX_NOT_FOUND", f"Sandbox {sandbox_id} not found.")
        return record

    def find_secret(self, sandbox_id: str) -> str:
        """Return the secret that opens one sandbox, "" where there is none with this id."""
        record = self._sandboxes.get(sandbox_id)
        return record.process.token if record else ""

    def find(self, *, states: Sequence[str], metadata: Mapping[str, str]) -> list[SandboxRecord]:
        """Return the sandboxes in one of the states that carry all of the metadata, newest first.

        Args:
            states: in any case; none means all.
            metadata: every pair must match exactly.
        """
        wanted = {state.lower() for state in states}
        with self._lock:
            newest_first = list(reversed(self._sandboxes.values()))
        return [
            record
            for record in newest_first
            if (not wanted or record.status[0].lower() in wanted) and metadata.items() <= record.metadata.items()
        ]

    def delete(self, sandbox_id: str) -> None:
        """End a sandbox and remove it from the list; one that does not end stays in the list.

        Raises:
            RefusedError: there is none with this id, or it does not end.
        """
        record = self.get(sandbox_id)
        record.process.kill()
        if not record.process.ended.wait(END_SECONDS):
            refuse(500, "DOCKER::SANDBOX_DELETE_FAILED", f"Sandbox {sandbox_id} did not end in {END_SECONDS} s.")
        self._forget(record)

    def renew(self, sandbox_id: str, expires_at: datetime) -> None:
        """Set when a sandbox ends.

        Raises:
            RefusedError: the time has passed, there is no such sandbox, or it has no end.
        """
        record = self.get(sandbox_id)
        if expires_at <= datetime.now(timezone.utc):
            refuse(400, "DOCKER::INVALID_EXPIRATION", "New expiration time must be in the future.")
        if record.expires_at is None:
            message = f"Sandbox {sandbox_id} was created without a timeout, so it has none to renew."
            refuse(409, "DOCKER::INVALID_EXPIRATION", message)
        record.expires_at = expires_at
        self._schedule(record)

    def pause(self, sandbox_id: str) -> None:
        """Freeze a sandbox.

        Raises:
            RefusedError: there is no such sandbox, it is not running, or this machine cannot pause.
        """
        record = self.get(sandbox_id)
        with record.lock:
            if record.status[0] != "Running":
                message = f"Sandbox {sandbox_id} is {record.status[0]}, only a running one can be paused."
                refuse(409, "DOCKER::SANDBOX_NOT_RUNNING", message)
            try:
                record.process.freeze()
            except OSError as error:
                refuse(400, "SANDBOX::API_NOT_SUPPORTED", f"Sandboxes cannot be paused here: {error}")
            record.is_paused = True

    def resume(self, sandbox_id: str) -> None:
        """Resume a paused sandbox.

        Raises:
            RefusedError: there is no such sandbox, or it is not paused.
        """
        record = self.get(sandbox_id)
        with record.lock:
            if record.status[0] != "Paused":
                message = f"Sandbox {sandbox_id} is {record.status[0]}, only a paused one can be resumed."
                refuse(409, "DOCKER::SANDBOX_NOT_PAUSED", message)
            record.process.thaw()
            record.is_paused = False

    def close(self) -> bool:
        """End every sandbox, and say whether all of them have ended."""
        self._is_closed = True
        with self._lock:
            records = list(self._sandboxes.values())
        for record in records:
            record.process.kill()
        deadline = time.monotonic() + END_SECONDS
        for record in records:
            if record.process.ended.wait(max(0.0, deadline - time.monotonic())):
                self._forget(record)
        self.snapshots.close()
        return not self._sandboxes

    def _start(self, request: CreateRequest) -> SandboxRecord:
        record = SandboxRecord(request, self._context, self.snapshots.labels_in(request.snapshot_id))
        for note in self._notes:
            record.process.log.note(note)
        background = self._context.background
        environment = {**request.environment, "OPENSANDBOX_ID": record.id}
        try:
            origin = self.snapshots.acquire(request.snapshot_id, record.id) if request.snapshot_id else None
            record.process.start(request.entrypoint, environment, origin)
        except (OSError, RefusedError):
            background.call(record.relay.close)
            self.snapshots.release(request.snapshot_id, record.id)
            raise
        background.call(record.relay.start)
        return record

    def _forget(self, record: SandboxRecord) -> None:
        """Remove an ended sandbox from the list, unless another thread has done so."""
        with self._lock:
            if self._sandboxes.pop(record.id, None) is None:
                return
        self._in_loop(self._cancel_timer, record)
        self.snapshots.release(record.request.snapshot_id, record.id)

    def _schedule(self, record: SandboxRecord) -> None:
        self._in_loop(self._set_timer, record)

    def _in_loop(self, function: Callable[[SandboxRecord], None], record: SandboxRecord) -> None:
        self._context.background.call(function, record)

    def _cancel_timer(self, record: SandboxRecord) -> None:
        if record.timer:
            record.timer.cancel()

    def _set_timer(self, record: SandboxRecord) -> None:
        """Delete the sandbox when it expires; check at least each hour, because the clock may be set meanwhile."""
        self._cancel_timer(record)
        if record.expires_at is None or record.id not in self._sandboxes:
            return
        pause = min((record.expires_at - datetime.now(timezone.utc)).total_seconds(), _TIMER_SECONDS)
        if pause <= 0:
            if record.process.ended.is_set():
                self._forget(record)
                return
            record.process.kill()
            pause = _END_POLL_SECONDS
        record.timer = self._context.background.loop.call_later(pause, self._set_timer, record)
