"""The record of what exists: labels of a run, the ledger of one process, and tallies that add up over processes."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_opensandbox.client.sandbox_opts import label_value

TAG_RUN = "pytest-opensandbox.run"
TAG_WORKER = "pytest-opensandbox.worker"
TAG_PROJECT = "pytest-opensandbox.project"
TAG_TEST = "pytest-opensandbox.test"
TAG_CREATE = "pytest-opensandbox.create"


@dataclass(frozen=True)
class RunTags:
    """The labels by which a run's sandboxes are found again."""

    run_id: str
    """Unique for one pytest run, the same on all its workers."""
    worker_id: str = "main"
    """``main`` or the xdist worker's name."""
    project: str = ""
    """Name of the project under test."""

    def metadata(self, *, test: str = "", is_restored: bool = False) -> dict[str, str]:
        """Return the labels for one create; the last of them is unique to it.

        Args:
            test: name of the test that asks.
            is_restored: whether it is made from a snapshot, of which it would inherit the labels that are left out.
        """
        tags = {
            TAG_RUN: self.run_id,
            TAG_WORKER: self.worker_id,
            TAG_PROJECT: label_value(self.project) if self.project else "",
            TAG_TEST: label_value(test) if test else "",
        }
        return {key: value for key, value in tags.items() if value or is_restored} | {TAG_CREATE: secrets.token_hex(8)}


class Ledger:
    """The sandboxes that one process created and deleted; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._created: list[str] = []
        self._gone: set[str] = set()
        self._unanswered: dict[str, None] = {}
        self.has_snapshots = False
        """Whether a snapshot was begun."""

    @property
    def created(self) -> tuple[str, ...]:
        """Ids of all sandboxes, in the order of their creation."""
        with self._lock:
            return tuple(self._created)

    @property
    def left(self) -> tuple[str, ...]:
        """Ids of the sandboxes that are not deleted yet."""
        with self._lock:
            return tuple(sandbox_id for sandbox_id in self._created if sandbox_id not in self._gone)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Tags of creates that may still make a sandbox, of which no listing had one so far."""
        with self._lock:
            return tuple(self._unanswered)

    def is_gone(self, sandbox_id: str) -> bool:
        """Return whether a sandbox is known to exist no longer."""
        with self._lock:
            return sandbox_id in self._gone

    def mark_unconfirmed(self, create_tag: str) -> None:
        """Note that it is unknown whether a create has made a sandbox."""
        with self._lock:
            self._unanswered[create_tag] = None

    def mark_confirmed(self, create_tag: str) -> None:
        """Note that it is known now."""
        with self._lock:
            self._unanswered.pop(create_tag, None)

    def add(self, sandbox_id: str) -> None:
        """Note a creation."""
        with self._lock:
            self._created.append(sandbox_id)

    def write_off(self) -> None:
        """Note that all sandboxes have ended with their server, and that no create is under way."""
        with self._lock:
            self._gone.update(self._created)
            self._unanswered.clear()

    def mark_deleted(self, sandbox_ids: Iterable[str]) -> None:
        """Note that these no longer exist."""
        with self._lock:
            self._gone.update(sandbox_ids)


@dataclass(frozen=True, kw_only=True)
class SetupTally:
    """Counts of setups, and the snapshots that they left."""

    built: int = 0
    """How many setups were kept as a snapshot."""
    seconds: float = 0.0
    """Time of these, with the creation of a sandbox and the snapshot; seconds."""
    restored: int = 0
    """How many sandboxes were restored from them."""
    repeated: int = 0
    """In how many sandboxes a setup ran because there were no snapshots."""
    repeated_seconds: float = 0.0
    """Time of these; seconds."""
    reasons: tuple[str, ...] = ()
    """Why there were no snapshots, each once."""
    has_snapshots: bool = False
    """Whether any snapshot was begun, also by hand."""
    left: tuple[str, ...] = ()
    """The snapshots that could not be deleted, as ids and names."""

    def to_wire(self) -> dict[str, Any]:
        """Return it in the simple types that xdist carries between processes."""
        return {**asdict(self), "reasons": list(self.reasons), "left": list(self.left)}

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> SetupTally:
        """Read what ``to_wire`` wrote."""
        return cls(**{**body, "reasons": tuple(body["reasons"]), "left": tuple(body["left"])})

    def __add__(self, other: SetupTally) -> SetupTally:
        return SetupTally(
            built=self.built + other.built,
            restored=self.restored + other.restored,
            repeated=self.repeated + other.repeated,
            seconds=self.seconds + other.seconds,
            repeated_seconds=self.repeated_seconds + other.repeated_seconds,
            reasons=tuple(dict.fromkeys((*self.reasons, *other.reasons))),
            has_snapshots=self.has_snapshots or other.has_snapshots,
            left=tuple(dict.fromkeys((*self.left, *other.left))),
        )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of sandboxes by what became of them."""

    created: int = 0
    """How many were created."""
    deleted: int = 0
    """How many their own handles deleted."""
    swept: tuple[str, ...] = ()
    """Ids of those that a sweep deleted."""
    left: tuple[str, ...] = ()
    """Ids of those that are not deleted yet."""
    setups: SetupTally = SetupTally()
    """Their setups."""
    failures: tuple[str, ...] = ()
    """The embedded servers that ended by themselves, a line each."""

    @property
    def used(self) -> bool:
        """Whether there was a sandbox at all."""
        return bool(self.created or self.swept or self.left)

    def to_wire(self) -> dict[str, Any]:
        """Return it in the simple types that xdist carries between processes."""
        return {
            "created": self.created,
            "deleted": self.deleted,
            "swept": list(self.swept),
            "left": list(self.left),
            "setups": self.setups.to_wire(),
            "failures": list(self.failures),
        }

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Tally:
        """Read what ``to_wire`` wrote."""
        return cls(
            created=body["created"],
            deleted=body["deleted"],
            swept=tuple(body["swept"]),
            left=tuple(body["left"]),
            setups=SetupTally.from_wire(body["setups"]),
            failures=tuple(body["failures"]),
        )

    def after_sweep(self, *, deleted: Iterable[str], left: Iterable[str], complete: bool) -> Tally:
        """Return the tally once a sweep has looked.

        Args:
            deleted: ids that the sweep deleted; one that no process counted was created by a process that died.
            left: ids that the sweep could not delete.
            complete: whether the sweep saw the whole list, so that a sandbox that it did not see is deleted.
        """
        deleted, left = tuple(deleted), tuple(left)
        unseen = [sandbox_id for sandbox_id in (*deleted, *left) if sandbox_id not in self.left]
        kept = () if complete else tuple(sandbox_id for sandbox_id in self.left if sandbox_id not in deleted)
        gone = [sandbox_id for sandbox_id in self.left if complete and sandbox_id not in (*deleted, *left)]
        return replace(
            self,
            created=self.created + len(unseen),
            deleted=self.deleted + len(gone),
            swept=(*self.swept, *deleted),
            left=tuple(dict.fromkeys((*kept, *left))),
        )


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum."""
    parts = list(tallies)
    return Tally(
        created=sum(part.created for part in parts),
        deleted=sum(part.deleted for part in parts),
        swept=tuple(sandbox_id for part in parts for sandbox_id in part.swept),
        left=tuple(sandbox_id for part in parts for sandbox_id in part.left),
        setups=sum((part.setups for part in parts), SetupTally()),
        failures=tuple(line for part in parts for line in part.failures),
    )
