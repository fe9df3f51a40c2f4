"""Deletes what listings show until they stay quiet, side by side and within a budget; trouble is told, never raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass

from pytest_opensandbox.errors import ApiError, AuthError, OpenSandboxError, TransportError
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.retry import poll_until_ready, time_limit

# Listings flap: what was being made may show up only in the next one.
_QUIET_LISTINGS = 2
_DELETED_AT_ONCE = 16
# For the answers that are under way when the budget ends: they say why something stays.
_LAST_ANSWERS_SECONDS = 2.0


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found."""

    deleted: tuple[str, ...] = ()
    """Ids of what it deleted, listing by listing."""
    left: tuple[str, ...] = ()
    """What it could not delete, as it is called in reports."""
    error: str = ""
    """Why it stopped early, or ""."""


def sweep_up(
    find: Callable[[], Mapping[str, str]],
    delete: Callable[[str], object],
    *,
    budget_seconds: float,
    failure: Callable[[Sequence[str], str], OpenSandboxError],
    unseen: Sequence[str] = (),
    is_settled: Callable[[], bool] = lambda: True,
) -> SweepReport:
    """Delete what ``find`` returns, until two listings in a row show nothing new.

    Args:
        find: returns what there is: by id, what it is called in reports.
        delete: deletes one by its id; raises nothing where it is already gone.
        budget_seconds: when to give up, whatever the server does; seconds, > 0; what is under way may take 2 s more.
        failure: makes the error from the names of what stays and the reason.
        unseen: names of what may be left where there was not even a listing.
        is_settled: asked after each listing whether nothing else is expected.
    """
    broom = _Broom(find, delete, failure, is_settled)
    error = ""
    try:
        with time_limit(budget_seconds + _LAST_ANSWERS_SECONDS):
            poll_until_ready(broom.pass_once, budget_seconds=budget_seconds, on_timeout=broom.give_up)
    except OpenSandboxError as exc:
        error = str(exc)
    left = tuple(unseen) if broom.stuck is None else tuple(broom.stuck.values())
    return SweepReport(tuple(broom.deleted), left, error)


class _Broom:
    """One sweep under way."""

    def __init__(
        self,
        find: Callable[[], Mapping[str, str]],
        delete: Callable[[str], object],
        failure: Callable[[Sequence[str], str], OpenSandboxError],
        is_settled: Callable[[], bool],
    ) -> None:
        self.deleted: dict[str, None] = {}
        self.stuck: dict[str, str] | None = None
        self._find = find
        self._call = delete
        self._failure = failure
        self._is_settled = is_settled
        self._reasons: dict[str, None] = {}
        self._quiet = 0

    def pass_once(self) -> bool | None:
        """List, delete what is new; True once enough listings were quiet."""
        found = {key: name for key, name in self._find().items() if key not in self.deleted}
        self.stuck, self._reasons = dict(found), {}
        self._delete_all(list(found))
        self._quiet = 0 if found else self._quiet + 1
        return (self._quiet >= _QUIET_LISTINGS and self._is_settled()) or None

    def give_up(self, waited_seconds: float, attempts: int) -> OpenSandboxError:
        """Say what stays."""
        reasons = "; ".join(self._reasons) or "new ones kept appearing"
        why = f"after {waited_seconds:.1f} s and {counted(attempts, 'listing')}: {reasons}"
        return self._failure(list((self.stuck or {}).values()), why)

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
                (self.stuck or {}).pop(key, None)
            else:
                self._reasons[str(refusal)] = None
        for refusal in refusals:
            if isinstance(refusal, AuthError):
                raise refusal

    def _delete(self, key: str) -> ApiError | TransportError | None:
        try:
            self._call(key)
        except (ApiError, TransportError) as exc:
            return exc
        return None


def _contexts(ids: Sequence[str]) -> list[Context]:
    """Return a context for each: none of them can be entered twice at a time."""
    return [copy_context() for _ in ids]
