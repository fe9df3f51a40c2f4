"""The terminal summary of a run, and the warnings of what it left."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypedDict

from pytest_opensandbox.clock import wall_time
from pytest_opensandbox.errors import LeakWarning
from pytest_opensandbox.sandbox.tracking import SetupTally, Tally
from pytest_opensandbox.text import counted, escape

_FAILURES_SHOWN = 5
_UNENDED = "did not end when the embedded server ended them; see whether `ps -ef` still shows a bwrap of theirs"


class Markup(TypedDict, total=False):
    """Colours of a line, as pytest's terminal writer names them."""

    red: bool
    yellow: bool
    bold: bool


def summary_lines(
    tally: Tally,
    *,
    sweep: str,
    lease_seconds: int,
    crashed: Sequence[str] = (),
    unreported: Sequence[str] = (),
    error: str = "",
    refusal: str = "",
) -> list[tuple[str, Markup]]:
    """Return the lines of the terminal summary with their colours; none where no sandbox was used.

    Args:
        tally: the counts of the run's sandboxes.
        sweep: the command that deletes what is left; "" where no command can.
        lease_seconds: how long what is left may live on.
        crashed: names of the workers that died.
        unreported: names of those that were stopped before they could report all.
        error: why the sweep stopped early, or "".
        refusal: why the workers could have no sandbox, or "".
    """
    if refusal:
        return [(escape(refusal), {"red": True})]
    if not tally.used and not tally.failures and not (error and (crashed or unreported)):
        return []
    fate = f"; {', '.join(crashed)} crashed" if crashed else ""
    if unreported:
        fate += f"; {', '.join(unreported)} stopped before reporting all"
    counts = f"{tally.created} created, {tally.deleted} deleted, {len(tally.swept)} swept, {len(tally.left)} left"
    lines: list[tuple[str, Markup]] = [(f"opensandbox: {counts}{fate}", {"red": True} if tally.left else {})]
    if tally.left:
        until = f"still running until {_end_of_lease(lease_seconds)}, when their lease ends" if sweep else _UNENDED
        lines.append((escape(f"{until}: {', '.join(tally.left)}"), {"red": True}))
    lines += [(escape(failure), {"yellow": True}) for failure in tally.failures[:_FAILURES_SHOWN]]
    if len(tally.failures) > _FAILURES_SHOWN:
        lines.append((f"and {len(tally.failures) - _FAILURES_SHOWN} more embedded servers", {"yellow": True}))
    lines += _setup_lines(tally.setups)
    if sweep and (tally.left or tally.setups.left):
        lines.append((escape(f"to delete them now: {sweep}"), {}))
    if error:
        lines.append((escape(f"the sweep stopped early: {error}"), {"red": True}))
    return lines


def warn_of_leaks(left: Sequence[str], *, sweep: str, lease_seconds: int) -> None:
    """Warn of sandboxes that could not be deleted; never an error, because no test is to blame.

    Args:
        left: their ids.
        sweep: the command that deletes them; "" where no command can.
        lease_seconds: how long they may live on.
    """
    if sweep:
        text = f"sandboxes may run until {_end_of_lease(lease_seconds)}, when their lease ends: {', '.join(left)}"
        text += f"; to delete them now: {sweep}"
    else:
        text = f"{_UNENDED}: {', '.join(left)}"
    # With -W error a warning raises, which would end the run with an internal error; the summary shows it anyway.
    with suppress(LeakWarning):
        warnings.warn(LeakWarning(escape(text)), stacklevel=2)


def warn_of_snapshots(left: Sequence[str], *, sweep: str) -> None:
    """Warn of snapshots that could not be deleted, in the same way.

    Args:
        left: their ids and names.
        sweep: the command that deletes them.
    """
    with suppress(LeakWarning):
        warnings.warn(LeakWarning(escape(f"{_left_snapshots(left)}; to delete them now: {sweep}")), stacklevel=2)


def _setup_lines(setups: SetupTally) -> Iterator[tuple[str, Markup]]:
    """Yield how many setups were kept or repeated, and which snapshots are left."""
    if setups.built:
        restored = counted(setups.restored, "sandbox", "sandboxes")
        yield f"setup: {setups.built} prepared and kept in {setups.seconds:.1f} s, {restored} restored", {}
    if setups.repeated:
        repeated, why = counted(setups.repeated, "sandbox", "sandboxes"), "; ".join(setups.reasons)
        text = f"setup: run anew in {repeated}, {setups.repeated_seconds:.1f} s in all, for want of snapshots: {why}"
        yield escape(text), {"yellow": True}
    if setups.left:
        yield escape(_left_snapshots(setups.left)), {"red": True}


def _left_snapshots(left: Sequence[str]) -> str:
    return f"snapshots stay on the server until they are deleted by hand: {', '.join(left)}"


def _end_of_lease(lease_seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(wall_time() + lease_seconds))
