"""Outcomes of a setup, in the form in which the processes of a run share them.

An outcome is stored where every other test would meet it again. Other errors are not: the next test tries again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_opensandbox.errors import SetupError, SnapshotFailedError


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A setup that was kept as a snapshot."""

    snapshot_id: str
    """The snapshot from which sandboxes are restored."""
    labels: tuple[str, ...] = ()
    """Names of the labels that a restored sandbox inherits."""


@dataclass(frozen=True, kw_only=True)
class NotKept:
    """A setup that no snapshot can keep, so that it runs in each sandbox."""

    reason: str
    """Why there are no snapshots."""


@dataclass(frozen=True, kw_only=True)
class FailedSetup:
    """A setup of which a command did not exit with 0."""

    command: str
    exit_code: int
    stdout: str
    stderr: str
    sandbox_id: str
    source: str
    why: str

    @classmethod
    def of(cls, error: SetupError) -> FailedSetup:
        """Return the facts of an error."""
        return cls(
            command=str(error.command),
            exit_code=error.exit_code,
            stdout=error.stdout,
            stderr=error.stderr,
            sandbox_id=error.sandbox_id,
            source=error.source,
            why=error.why,
        )

    def error(self) -> SetupError:
        """Return the error for a test that meets the failure again; its text is short."""
        return SetupError(**asdict(self), repeated=True)


@dataclass(frozen=True, kw_only=True)
class FailedSnapshot:
    """A setup that succeeded, but whose snapshot did not become ready."""

    sandbox_id: str
    snapshot_id: str
    state: str
    reason: str
    message: str

    @classmethod
    def of(cls, error: SnapshotFailedError) -> FailedSnapshot:
        """Return the facts of an error."""
        return cls(
            sandbox_id=error.sandbox_id,
            snapshot_id=error.snapshot_id,
            state=error.state,
            reason=error.reason,
            message=error.message,
        )

    def error(self) -> SnapshotFailedError:
        """Return the error for a test that meets the failure again."""
        return SnapshotFailedError(**asdict(self))


SetupOutcome = Kept | NotKept | FailedSetup | FailedSnapshot

_KINDS: Mapping[str, type[SetupOutcome]] = {
    "kept": Kept,
    "not kept": NotKept,
    "failed setup": FailedSetup,
    "failed snapshot": FailedSnapshot,
}


def to_json(outcome: SetupOutcome) -> dict[str, Any]:
    """Return an outcome as JSON can hold it."""
    kind = next(kind for kind, of_kind in _KINDS.items() if isinstance(outcome, of_kind))
    return {"kind": kind, **asdict(outcome)}


def from_json(body: Mapping[str, Any]) -> SetupOutcome:
    """Read what ``to_json`` wrote."""
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    return _KINDS[facts.pop("kind")](**facts)
