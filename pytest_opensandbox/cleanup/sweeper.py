"""The loop of a sweep: list, delete what is new, and stop when the listings stay empty or the time is up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Protocol

from pytest_opensandbox.errors import ApiError, AuthError, OpenSandboxError, TransportError
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.retry import poll_until_ready, time_limit

SWEEP_SECONDS = 20.0
"""When a sweep gives up, whatever the server does; seconds."""

# A listing may lack a resource that is still being created. The next one shows it.
_EMPTY_LISTINGS = 2
_DELETED_AT_ONCE = 16
# For the responses that are under way when the budget ends: they say why a resource stays.
_LAST_RESPONSES_SECONDS = 2.0


@dataclass(frozen=True)
class SweepReport:
    """What a sweep deleted, and what it could not delete."""

    deleted: tuple[str, ...] = ()
    """Ids of what it deleted, listing by listing."""
    left: tuple[str, ...] = ()
    """What it could not delete, by the names that reports use."""
    error: str = ""
    """Why it stopped early, or ""."""

    def __add__(self, other: SweepReport) -> SweepReport:
        return SweepReport((*self.deleted, *other.deleted), (*self.left, *other.left), self.error or other.error)


class SweepTarget(Protocol):
    """Resources of one kind that a sweep deletes."""

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Names of what may be left where the server returned no listing at all."""

    def names(self) -> Mapping[str, str]:
        """Return what exists now: by id, the name that reports use.

        Raises:
            OpenSandboxError: the server cannot be asked.
        """

    def delete(self, resource_id: str) -> object:
        """Delete one; one that is already gone is no error.

        Raises:
            ApiError: the server refuses.
            TransportError: the server does not answer.
        """

    def is_settled(self) -> bool:
        """Say whether no further resource is expected to appear."""

    def failure(self, left: Sequence[str], why: str) -> OpenSandboxError:
        """Return the error for what stays: its names, and the reason."""


def sweep(target: SweepTarget, *, budget_seconds: float = SWEEP_SECONDS) -> SweepReport:
    """Delete everything that a listing returns, until two consecutive listings are empty.

    Args:
        target: what to list and delete.
        budget_seconds: when to give up, whatever the server does; seconds, > 0. Calls under way may take 2 s more.

    Returns:
        What was deleted and what is left. Failures are part of the report, never raised.
    """
    sweeper = _Sweeper(target)
    error = ""
    try:
        with time_limit(budget_seconds + _LAST_RESPONSES_SECONDS):
            poll_until_ready(sweeper.pass_once, budget_seconds=budget_seconds, on_timeout=sweeper.give_up)
    except OpenSandboxError as exc:
        error = str(exc)
    left = target.unlisted if sweeper.left is None else tuple(sweeper.left.values())
    return SweepReport(tuple(sweeper.deleted), left, error)


class _Sweeper:
    """One sweep under way."""

    def __init__(self, target: SweepTarget) -> None:
        self.deleted: dict[str, None] = {}
        self.left: dict[str, str] | None = None
        self._target = target
        self._reasons: dict[str, None] = {}
        self._empty_listings = 0

    def pass_once(self) -> bool | None:
        """List, and delete what is new; True once enough consecutive listings were empty."""
        found = {key: name for key, name in self._target.names().items() if key not in self.deleted}
        self.left, self._reasons = dict(found), {}
        self._delete_all(list(found))
        self._empty_listings = 0 if found else self._empty_listings + 1
        return (self._empty_listings >= _EMPTY_LISTINGS and self._target.is_settled()) or None

    def give_up(self, waited_seconds: float, attempts: int) -> OpenSandboxError:
        """Return the error that says what stays, and why."""
        reasons = "; ".join(self._reasons) or "new ones kept appearing"
        why = f"after {waited_seconds:.1f} s and {counted(attempts, 'listing')}: {reasons}"
        return self._target.failure(list((self.left or {}).values()), why)

    def _delete_all(self, ids: Sequence[str]) -> None:
        """Delete several at once, because a server takes its time for each."""
        if not ids:
            return
        # Lazy: most runs leave nothing to a sweep.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_DELETED_AT_ONCE, thread_name_prefix="opensandbox-sweep") as pool:
            # A thread knows the time limit by its context alone.
            refusals = list(pool.map(lambda context, key: context.run(self._delete, key), _contexts(ids), ids))
        for key, refusal in zip(ids, refusals, strict=True):
            if refusal is None:
                self.deleted[key] = None
                (self.left or {}).pop(key, None)
            else:
                self._reasons[str(refusal)] = None
        for refusal in refusals:
            if isinstance(refusal, AuthError):
                raise refusal

    def _delete(self, key: str) -> ApiError | TransportError | None:
        try:
            self._target.delete(key)
        except (ApiError, TransportError) as exc:
            return exc
        return None


def _contexts(ids: Sequence[str]) -> list[Context]:
    """Return a context for each: none of them can be entered twice at a time."""
    return [copy_context() for _ in ids]
