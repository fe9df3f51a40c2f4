"""The lifecycle API's operations on snapshots."""

from __future__ import annotations

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandboxes import read_listing
from pytest_opensandbox.errors import NotFoundError, SnapshotFailedError
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.endpoints import path_segment
from pytest_opensandbox.transport.retry import check_seconds, one_call, poll_until_ready, retry_idempotent, time_limit
from pytest_opensandbox.transport.transport import Transport

SNAPSHOT_SECONDS = 900.0
"""How long a snapshot may take; the limit of Kubernetes, and Docker is slow with a large one."""

_LAST_ANSWER_SECONDS = 0.25
_READY = "Ready"
_FINAL_STATES = frozenset({_READY, "Failed"})


class SnapshotsAPI:
    """The lifecycle operations on snapshots; part of the client.

    A snapshot keeps a sandbox's whole file system, and never expires.
    """

    _transport: Transport

    @one_call
    def create_snapshot(self, sandbox_id: str, name: str | None = None) -> Snapshot:
        """Begin a snapshot of a running sandbox; it can be restored once its state is ``Ready``.

        Args:
            sandbox_id: the sandbox to take it from.
            name: a name to find it by.

        Returns:
            The snapshot, mostly in the state ``Creating``.

        Raises:
            NotFoundError: no such sandbox.
            ConflictError: it does not run, or this runtime cannot.
            ApiError: the server refuses.
            TransportError: no answer; a snapshot may have been made.

        Source: specs/sandbox-lifecycle.yml, POST /sandboxes/{sandboxId}/snapshots.
        """
        path = f"/sandboxes/{path_segment('sandbox_id', sandbox_id)}/snapshots"
        body = {} if name is None else {"name": name}
        return Snapshot.from_wire(self._transport.request("POST", path, json=body).json())

    @one_call
    def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """Return a snapshot as the server describes it.

        Args:
            snapshot_id: the snapshot.

        Returns:
            The snapshot, whatever its state.

        Raises:
            NotFoundError: no such snapshot.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, GET /snapshots/{snapshotId}.
        """
        path = f"/snapshots/{path_segment('snapshot_id', snapshot_id)}"
        return Snapshot.from_wire(
            retry_idempotent(lambda: self._transport.request("GET", path).json(), timeouts=self._transport.timeouts)
        )

    def wait_snapshot_ready(
        self, snapshot_id: str, *, timeout: float = SNAPSHOT_SECONDS, known: Snapshot | None = None
    ) -> Snapshot:
        """Return a snapshot as soon as sandboxes can be restored from it.

        Args:
            snapshot_id: the snapshot.
            timeout: one budget for all requests and waits; seconds.
            known: what ``create_snapshot`` returned; it saves the first request.

        Returns:
            The snapshot, in the state ``Ready``.

        Raises:
            SnapshotFailedError: it failed, or the time is up.
            NotFoundError: no such snapshot.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, GET /snapshots/{snapshotId}.
        """
        check_seconds("timeout", timeout)
        snapshot = known or self.get_snapshot(snapshot_id)

        def poll() -> Snapshot | None:
            nonlocal snapshot
            if snapshot.state not in _FINAL_STATES:
                snapshot = self.get_snapshot(snapshot_id)
            return snapshot if snapshot.state in _FINAL_STATES else None

        def timeout_error(waited: float, attempts: int) -> SnapshotFailedError:
            return _failed(snapshot, message=f"not ready after {waited:.1f} s and {counted(attempts, 'poll')}")

        with time_limit(timeout + _LAST_ANSWER_SECONDS):
            ready = poll_until_ready(poll, budget_seconds=timeout, on_timeout=timeout_error)
        if ready.state != _READY:
            raise _failed(ready, message=ready.message)
        return ready

    @one_call
    def list_snapshots(self, sandbox_id: str | None = None, name: str | None = None) -> list[Snapshot]:
        """Return all snapshots, or those of one sandbox, or of one name.

        Args:
            sandbox_id: the sandbox they were taken from; None for any.
            name: their name; None for any.

        Returns:
            The snapshots of all pages, in the server's order.

        Raises:
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, GET /snapshots.
        """
        query = [(key, value) for key, value in (("sandboxId", sandbox_id), ("name", name)) if value is not None]
        return read_listing(self._transport, "/snapshots", query, Snapshot.from_wire)

    @one_call
    def delete_snapshot(self, snapshot_id: str) -> bool:
        """Delete a snapshot.

        Args:
            snapshot_id: the snapshot.

        Returns:
            Whether it existed; False where it was already gone.

        Raises:
            ConflictError: it is still being made, or a sandbox was made from it and runs.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, DELETE /snapshots/{snapshotId}.
        """
        path = f"/snapshots/{path_segment('snapshot_id', snapshot_id)}"
        try:
            retry_idempotent(lambda: self._transport.request("DELETE", path).read(), timeouts=self._transport.timeouts)
        except NotFoundError:
            return False
        return True


def _failed(snapshot: Snapshot, *, message: str) -> SnapshotFailedError:
    return SnapshotFailedError(
        sandbox_id=snapshot.sandbox_id,
        snapshot_id=snapshot.id,
        state=snapshot.state,
        reason=snapshot.reason,
        message=message,
    )
