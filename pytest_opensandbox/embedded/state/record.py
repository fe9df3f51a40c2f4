"""One sandbox as the lifecycle API knows it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pytest_opensandbox.embedded.errors import refuse
from pytest_opensandbox.embedded.runtime.log import stamp
from pytest_opensandbox.embedded.runtime.process import LaunchContext, SandboxProcess
from pytest_opensandbox.embedded.runtime.relay import Relay

HOST_IMAGE = "host"

_KEPT_EXTENSIONS = "opensandbox.extensions."


@dataclass(frozen=True)
class CreateRequest:
    """A create that can be carried out."""

    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    metadata: Mapping[str, str]
    extensions: Mapping[str, str]
    timeout_seconds: int | None
    """Seconds of life, None for no end."""
    snapshot_id: str = ""
    """What to restore, "" for a sandbox of this machine's own system."""
    platform: Mapping[str, str] | None = None
    """``os`` and ``arch`` where they were asked for."""


class SandboxRecord:
    """One sandbox as the lifecycle API knows it.

    Attributes:
        id: uuid4 as text.
        request: what it was created from.
        labels: what it was created with, and what it has from a snapshot, as a container has its image's labels.
        metadata: its labels, as last patched.
        created_at: when, in UTC.
        expires_at: when it is deleted, None for never.
        ended_at: when its entrypoint ended, None while it runs.
        is_paused: its processes are frozen.
        process: the running thing.
        relay: its loopback port.
        timer: deletes it when its time is up.
    """

    def __init__(self, request: CreateRequest, workshop: LaunchContext, inherited: Mapping[str, str]) -> None:
        self.id = str(uuid.uuid4())
        self.request = request
        self.labels = {**inherited, **request.metadata}
        self.metadata = dict(self.labels)
        self.created_at = datetime.now(timezone.utc)
        self.expires_at = expiry(self.created_at, request.timeout_seconds)
        self.ended_at: datetime | None = None
        self.is_paused = False
        self.lock = threading.Lock()
        self.process = SandboxProcess(workshop, self.id, self._end)
        self.relay = Relay(self.process.agent, self.process.token)
        self.timer: asyncio.TimerHandle | None = None

    @property
    def status(self) -> tuple[str, str, str]:
        """State, reason and message, in the words of the Docker runtime."""
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
        """Return the sandbox as a get or a listing shows it."""
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
            "expiresAt": self.expires_at and stamp(self.expires_at),
            "createdAt": stamp(self.created_at),
        }
        return {name: value for name, value in described.items() if value is not None}

    def describe_created(self) -> dict[str, object]:
        """Return the sandbox as the answer to its create shows it: running, without what it was made from."""
        described = {name: value for name, value in self.describe().items() if name not in ("image", "snapshotId")}
        described["status"] = self._status("Running", "CONTAINER_RUNNING", "Sandbox container started successfully.")
        described["metadata"] = dict(self.request.metadata)
        return {name: value for name, value in described.items() if value != {}}

    def _status(self, state: str, reason: str, message: str) -> dict[str, str]:
        changed = self.ended_at if state in ("Terminated", "Failed") and self.ended_at else self.created_at
        return {"state": state, "reason": reason, "message": message, "lastTransitionAt": stamp(changed)}

    def _end(self) -> None:
        """Close what belongs to a running sandbox; called in the background loop."""
        self.ended_at = datetime.now(timezone.utc)
        self.relay.close()


def expiry(created_at: datetime, timeout_seconds: int | None) -> datetime | None:
    """Return when a sandbox ends, None for never.

    Raises:
        RefusedError: later than there are dates.
    """
    if timeout_seconds is None:
        return None
    try:
        return created_at + timedelta(seconds=timeout_seconds)
    except OverflowError:
        message = f"Sandbox timeout {timeout_seconds}s is too large to represent safely."
        refuse(400, "SANDBOX::INVALID_PARAMETER", message)
