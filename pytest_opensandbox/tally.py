"""Counts what became of a run's sandboxes, in one process and summed over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of some sandboxes."""

    created: int = 0
    """How many were created."""
    deleted: int = 0
    """How many their own handles deleted."""
    swept: tuple[str, ...] = ()
    """Ids of those that a sweep deleted."""
    left: tuple[str, ...] = ()
    """Ids of those that nobody has deleted yet."""

    @property
    def used(self) -> bool:
        """Whether there was any sandbox at all."""
        return bool(self.created or self.swept or self.left)

    def to_wire(self) -> dict[str, Any]:
        """Return it in the simple types that xdist carries between processes."""
        return {"created": self.created, "deleted": self.deleted, "swept": list(self.swept), "left": list(self.left)}

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Tally:
        """Read what ``to_wire`` wrote."""
        return cls(
            created=body["created"], deleted=body["deleted"], swept=tuple(body["swept"]), left=tuple(body["left"])
        )

    def after_sweep(self, *, deleted: Iterable[str], left: Iterable[str], complete: bool) -> Tally:
        """Return the tally once a sweep has looked.

        Args:
            deleted: ids that the sweep deleted; one that nobody had counted was created by a process that died.
            left: ids that the sweep could not delete.
            complete: whether the sweep saw the whole list, so that what it did not see is gone.
        """
        deleted, left = tuple(deleted), tuple(left)
        unseen = [sandbox_id for sandbox_id in (*deleted, *left) if sandbox_id not in self.left]
        kept = () if complete else tuple(sandbox_id for sandbox_id in self.left if sandbox_id not in deleted)
        gone = [sandbox_id for sandbox_id in self.left if complete and sandbox_id not in (*deleted, *left)]
        return Tally(
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
    )
