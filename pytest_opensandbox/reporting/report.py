"""What pytest prints of sandboxes: the header line, a section in a failed test's report, the summary."""

from __future__ import annotations

import platform
import shlex
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

import pytest

from pytest_opensandbox.errors import LeakWarning
from pytest_opensandbox.sandbox.history import TAIL_BYTES
from pytest_opensandbox.sandbox.tracking import SetupTally, Tally
from pytest_opensandbox.settings.options import DOCKER, EMBEDDED, OPTIONS
from pytest_opensandbox.settings.settings import Settings
from pytest_opensandbox.text import counted, escape

if TYPE_CHECKING:
    from pytest_opensandbox.plugin.run import Run
    from pytest_opensandbox.sandbox.history import CommandRecord
    from pytest_opensandbox.sandbox.sandbox import Sandbox

_COMMANDS_SHOWN = 10
_LINES_SHOWN = 20
_FAILURES_SHOWN = 5
_COMMAND_CHARACTERS = 500
_ALWAYS_SHOWN = ("url", "image")
_FILTERED_MACHINES = ("x86_64", "aarch64")
_UNENDED = "did not end when the embedded server ended them; see whether `ps -ef` still shows a bwrap of theirs"


class Markup(TypedDict, total=False):
    """Colours of a line, as pytest's terminal writer names them."""

    red: bool
    yellow: bool
    bold: bool


def header(run: Run) -> str:
    """Return the header line: where sandboxes come from, what is not the default, and who said so."""
    parts = []
    for option in OPTIONS:
        source = run.settings.sources[option.name]
        if option.name in _ALWAYS_SHOWN or source != "default":
            name = "" if option.name == "url" else f"{option.name}="
            place = option.env if source == "environment" else source
            parts.append(f"{name}{escape(option.shown(getattr(run.settings, option.field)))} ({place})")
    return f"opensandbox: {', '.join(parts)}, isolation={_isolation(run.settings)}, run={run.run_id}"


def add_sections(report: pytest.TestReport, run: Run, item: pytest.Item) -> None:
    """Add what happened in each sandbox that a failed test used; for the terminal, and as properties for junitxml."""
    used = run.used_by_test()
    begun = min([run.test_started, *(box.started for box in used)])
    # A server that ended earlier than that was nothing to this test.
    failures = [failure for failure in run.connection.failures if failure.noticed >= begun]
    told = [("embedded server", escape(failure.story)) for failure in failures]
    told += [(f"sandbox {escape(box.id)} ({escape(box.image)})", story(box, since=run.test_started)) for box in used]
    for section in told:
        report.sections.append(section)
        if section not in item.user_properties:
            item.user_properties.append(section)
            report.user_properties.append(section)


def hide_own_frames(call: pytest.CallInfo[None]) -> None:
    """End a traceback at the user's line that called this package, without our frames and those of libraries below."""
    if call.excinfo is None:
        return
    # What caused an error of ours was raised in our frames; of that its text is enough.
    for cause in _causes(call.excinfo.value):
        cause.__traceback__ = _shortened_trace(cause.__traceback__)
    shortened = _shortened_trace(call.excinfo.tb)
    if shortened is not None and shortened is not call.excinfo.tb:
        call.excinfo = pytest.ExceptionInfo.from_exc_info((call.excinfo.type, call.excinfo.value, shortened))


def story(box: Sandbox, *, since: float) -> str:
    """Tell a sandbox's last commands, with how they ended and the tails of what they wrote.

    Args:
        box: the sandbox, open or closed.
        since: leave out what began earlier; ``time.monotonic()`` seconds.

    Returns:
        Lines of printable characters; everything else is escaped.
    """
    records = [record for record in list(box.history) if record.started >= since]
    told = records[-_COMMANDS_SHOWN:]
    copies = sum(record.is_copy for record in records)
    notes = sum(record.is_note for record in records)
    earlier_commands, earlier_copies = box.history.forgotten(since)
    commands, copies = len(records) - copies - notes + earlier_commands, copies + earlier_copies
    count = counted(commands, "command")
    if copies:
        count += f" and {counted(copies, 'copy', 'copies')}"
    last = f", the last {len(told)} of them" if len(told) < commands + copies + notes else ""
    origin = f", restored after `{box.prepared_by}`" if box.prepared_by else ""
    lines = [f"id={box.id}, image={box.image}{origin}, {box.state}; {count}{last}"]
    for record in told:
        lines += _told(record)
    return escape("\n".join(lines))


def summary(
    tally: Tally,
    *,
    sweep: str,
    lease_seconds: int,
    crashed: Sequence[str] = (),
    unheard: Sequence[str] = (),
    error: str = "",
    refusal: str = "",
) -> list[tuple[str, Markup]]:
    """Return the lines of the terminal summary with their colours; none where no sandbox was used.

    Args:
        tally: what became of the run's sandboxes.
        sweep: the command that deletes what is left; "" where none can.
        lease_seconds: how long what is left may live on.
        crashed: names of the workers that died.
        unheard: names of those that were stopped before they could tell all.
        error: why the sweep stopped early, or "".
        refusal: why the workers could have no sandbox, or "".
    """
    if refusal:
        return [(escape(refusal), {"red": True})]
    if not tally.used and not tally.failures and not (error and (crashed or unheard)):
        return []
    fate = f"; {', '.join(crashed)} crashed" if crashed else ""
    if unheard:
        fate += f"; {', '.join(unheard)} stopped before telling all"
    counts = f"{tally.created} created, {tally.deleted} deleted, {len(tally.swept)} swept, {len(tally.left)} left"
    lines: list[tuple[str, Markup]] = [(f"opensandbox: {counts}{fate}", {"red": True} if tally.left else {})]
    if tally.left:
        until = f"still running until {_end_of_lease(lease_seconds)}, when their lease ends" if sweep else _UNENDED
        lines.append((escape(f"{until}: {', '.join(tally.left)}"), {"red": True}))
    lines += [(escape(failure), {"yellow": True}) for failure in tally.failures[:_FAILURES_SHOWN]]
    if len(tally.failures) > _FAILURES_SHOWN:
        lines.append((f"and {len(tally.failures) - _FAILURES_SHOWN} more embedded servers", {"yellow": True}))
    lines += _of_setups(tally.setups)
    if sweep and (tally.left or tally.setups.left):
        lines.append((escape(f"to delete them now: {sweep}"), {}))
    if error:
        lines.append((escape(f"the sweep stopped early: {error}"), {"red": True}))
    return lines


def warn_of_leaks(left: Sequence[str], *, sweep: str, lease_seconds: int) -> None:
    """Warn of sandboxes that nobody could delete; never more than a warning, for no test is to blame.

    Args:
        left: their ids.
        sweep: the command that deletes them; "" where none can.
        lease_seconds: how long they may live on.
    """
    if sweep:
        text = f"sandboxes may run until {_end_of_lease(lease_seconds)}, when their lease ends: {', '.join(left)}"
        text += f"; to delete them now: {sweep}"
    else:
        text = f"{_UNENDED}: {', '.join(left)}"
    # With -W error a warning raises, and would end the run with an internal error; the summary tells it in any case.
    with suppress(LeakWarning):
        warnings.warn(LeakWarning(escape(text)), stacklevel=2)


def warn_of_snapshots(left: Sequence[str], *, sweep: str) -> None:
    """Warn of snapshots that nobody could delete, in the same way.

    Args:
        left: their ids and names.
        sweep: the command that deletes them.
    """
    with suppress(LeakWarning):
        warnings.warn(LeakWarning(escape(f"{_of_snapshots(left)}; to delete them now: {sweep}")), stacklevel=2)


def _of_setups(setups: SetupTally) -> Iterator[tuple[str, Markup]]:
    """Yield what was prepared, what could not be, and which snapshots stay."""
    if setups.built:
        boxes = counted(setups.restored, "sandbox", "sandboxes")
        yield f"setup: {setups.built} prepared and kept in {setups.seconds:.1f} s, {boxes} restored", {}
    if setups.repeated:
        boxes, why = counted(setups.repeated, "sandbox", "sandboxes"), "; ".join(setups.reasons)
        text = f"setup: run anew in {boxes}, {setups.repeated_seconds:.1f} s in all, for want of snapshots: {why}"
        yield escape(text), {"yellow": True}
    if setups.left:
        yield escape(_of_snapshots(setups.left)), {"red": True}


def _of_snapshots(left: Sequence[str]) -> str:
    return f"snapshots stay on the server until somebody deletes them: {', '.join(left)}"


def _end_of_lease(lease_seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time.time() + lease_seconds))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that pytest shows before this one, each once."""
    seen = {id(error)}
    below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while below is not None and id(below) not in seen:
        seen.add(id(below))
        yield below
        below = below.__cause__ or (None if below.__suppress_context__ else below.__context__)


def _shortened_trace(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without our frames, itself where it has none, and None where it has no others."""
    kept = list(_links_of_users(trace))
    if len(kept) == len(list(_links(trace))):
        return trace
    # pytest rebuilds a traceback that has been filtered from its raw links, so the links themselves are made anew.
    shortened = None
    for link in reversed(kept):
        shortened = TracebackType(shortened, link.tb_frame, link.tb_lasti, link.tb_lineno)
    return shortened


def _links(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _links_of_users(trace: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the links but those of this package and, behind the first of these, of libraries; callbacks stay."""
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    is_behind = False
    for link in _links(trace):
        own = str(link.tb_frame.f_globals.get("__name__")).startswith("pytest_opensandbox.")
        is_behind = is_behind or own
        if not own and not (is_behind and link.tb_frame.f_code.co_filename.startswith(libraries)):
            yield link


def _isolation(settings: Settings) -> str:
    namespaces = "bubblewrap namespaces" if _has_call_filter() else "bubblewrap namespaces (no seccomp filter)"
    return {EMBEDDED: namespaces, DOCKER: "containers"}.get(settings.url, "the server's")


def _has_call_filter() -> bool:
    """Say whether the embedded server's sandboxes get a seccomp filter: it has one for 64-bit x86 and ARM."""
    if sys.platform != "linux":
        return True  # the server, which does not run here, says why
    if platform.machine() not in _FILTERED_MACHINES or sys.maxsize <= 1 << 32:
        return False
    return "\nSeccomp:" in Path("/proc/self/status").read_text(encoding="utf-8")


def _told(record: CommandRecord) -> list[str]:
    command = record.command if isinstance(record.command, str) else shlex.join(record.command)
    if len(command) > _COMMAND_CHARACTERS:
        command = f"{command[:_COMMAND_CHARACTERS]}… ({len(command):,} characters)"
    prompt = "" if record.is_copy or record.is_note else "$ "
    lines = [prompt + command.replace("\n", "\n  "), f"  [{record.outcome}, {record.duration:.2f} s]"]
    for name, tail in (("stdout", record.stdout_tail), ("stderr", record.stderr_tail)):
        shown = tail.splitlines()
        if len(shown) > _LINES_SHOWN or len(tail.encode()) >= TAIL_BYTES:
            lines.append(f"  {name}| … the end of it:")
        lines += [f"  {name}| {line}" for line in shown[-_LINES_SHOWN:]]
    return lines
