"""What pytest prints of sandboxes: the header line, a section in a failed test's report, the summary."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

import pytest

from pytest_opensandbox.config import Settings
from pytest_opensandbox.errors import OpenSandboxError
from pytest_opensandbox.options import DOCKER, EMBEDDED, OPTIONS
from pytest_opensandbox.session import Run
from pytest_opensandbox.tally import Tally

if TYPE_CHECKING:
    from pytest_opensandbox.history import CommandRecord
    from pytest_opensandbox.sandbox import Sandbox

_COMMANDS_SHOWN = 10
_LINES_SHOWN = 20
_COMMAND_CHARACTERS = 500
_ALWAYS_SHOWN = ("url", "image")
_SHOWN_AS_THEY_ARE = frozenset("\n\t")


class Markup(TypedDict, total=False):
    """Colours of a line, as pytest's terminal writer names them."""

    red: bool
    yellow: bool
    bold: bool


def header(run: Run) -> str:
    """Return the header line: where sandboxes come from, what is not the default, and who said so."""
    shown = _shown_values(run.settings)
    parts = []
    for option in OPTIONS:
        source = run.settings.sources[option.name]
        if option.name in _ALWAYS_SHOWN or source != "default":
            name = "" if option.name == "url" else f"{option.name}="
            place = option.env if source == "environment" else source
            parts.append(f"{name}{escape(shown[option.name])} ({place})")
    return f"opensandbox: {', '.join(parts)}, isolation={_isolation(run.settings)}, run={run.run_id}"


def add_sections(report: pytest.TestReport, run: Run, item: pytest.Item) -> None:
    """Add what happened in each sandbox that a failed test used; for the terminal, and as properties for junitxml."""
    for box in run.used_by_test():
        section = (f"sandbox {escape(box.id)} ({escape(box.image)})", story(box, since=run.test_started))
        report.sections.append(section)
        if section not in item.user_properties:
            item.user_properties.append(section)
            report.user_properties.append(section)


def hide_own_frames(call: pytest.CallInfo[None]) -> None:
    """End the traceback of an error that this package raises on purpose at the line of the test that met it."""
    if call.excinfo is None or not isinstance(call.excinfo.value, OpenSandboxError):
        return
    # pytest rebuilds a traceback that has been filtered from its raw links, so the links themselves are made anew.
    shortened = None
    for link in reversed(list(_links(call.excinfo.tb))):
        if not str(link.tb_frame.f_globals.get("__name__")).startswith(f"{__package__}."):
            shortened = TracebackType(shortened, link.tb_frame, link.tb_lasti, link.tb_lineno)
    if shortened is not None:
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
    state = "closed" if box.closed else "running"
    count = f"{len(records)} command{'' if len(records) == 1 else 's'}"
    last = f", the last {len(told)} of them" if len(told) < len(records) else ""
    lines = [f"id={box.id}, image={box.image}, {state}; {count}{last}"]
    for record in told:
        lines += _told(record)
    return escape("\n".join(lines))


def summary(
    tally: Tally, *, lease_seconds: int, crashed: Sequence[str] = (), error: str = ""
) -> list[tuple[str, Markup]]:
    """Return the lines of the terminal summary with their colours; none where no sandbox was used.

    Args:
        tally: what became of the run's sandboxes.
        lease_seconds: how long what is left may live on.
        crashed: names of the workers that died.
        error: why the sweep stopped early, or "".
    """
    if not tally.used and not (error and crashed):
        return []
    fate = f"; {', '.join(crashed)} crashed" if crashed else ""
    counts = f"{tally.created} created, {tally.deleted} deleted, {len(tally.swept)} swept, {len(tally.left)} left"
    lines: list[tuple[str, Markup]] = [(f"opensandbox: {counts}{fate}", {"red": True} if tally.left else {})]
    if tally.left:
        end = time.strftime("%H:%M:%S", time.localtime(time.time() + lease_seconds))
        ids = ", ".join(tally.left)
        lines.append((escape(f"still running until {end}, when their lease ends: {ids}"), {"red": True}))
    if error:
        lines.append((escape(f"the sweep stopped early: {error}"), {"red": True}))
    return lines


def escape(text: str) -> str:
    r"""Return the text with every character that could steer a terminal or break XML written as ``\x1b`` and the like.

    Line breaks and tabs stay; control and format characters (the bidirectional ones among them), surrogates and
    unassigned code points are escaped.
    """
    return "".join(
        char if char.isprintable() or char in _SHOWN_AS_THEY_ARE else char.encode("unicode_escape").decode()
        for char in text.replace("\r\n", "\n")
    )


def _links(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _shown_values(settings: Settings) -> dict[str, str]:
    return {
        "url": settings.url,
        "image": settings.image,
        "resources": ",".join(f"{name}={value}" for name, value in settings.resources.items()) or "none",
        "lease": f"{settings.lease_seconds} s",
        "ready_timeout": f"{settings.ready_timeout_seconds:g} s",
        "command_timeout": f"{settings.command_timeout_seconds:g} s",
        "server_proxy": "yes" if settings.server_proxy else "no",
    }


def _isolation(settings: Settings) -> str:
    return {EMBEDDED: "bubblewrap namespaces", DOCKER: "containers"}.get(settings.url, "the server's")


def _told(record: CommandRecord) -> list[str]:
    command = record.command if isinstance(record.command, str) else shlex.join(record.command)
    if len(command) > _COMMAND_CHARACTERS:
        command = f"{command[:_COMMAND_CHARACTERS]}… ({len(command):,} characters)"
    lines = [f"$ {command}", f"  [{record.outcome}, {record.duration:.2f} s]"]
    for name, tail in (("stdout", record.stdout_tail), ("stderr", record.stderr_tail)):
        lines += [f"  {name}| {line}" for line in tail.splitlines()[-_LINES_SHOWN:]]
    return lines
