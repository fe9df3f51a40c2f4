"""The sections in a failed test's report: what happened in its sandboxes and to its server."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_opensandbox.sandbox.history import TAIL_BYTES
from pytest_opensandbox.text import counted, escape

if TYPE_CHECKING:
    from pytest_opensandbox.sandbox.history import CommandRecord
    from pytest_opensandbox.sandbox.process import Process
    from pytest_opensandbox.sandbox.sandbox import Sandbox

_COMMANDS_SHOWN = 10
_LINES_SHOWN = 20
_COMMAND_CHARACTERS = 500


def add_sections(
    report: pytest.TestReport,
    item: pytest.Item,
    *,
    sandboxes: Sequence[Sandbox],
    test_started: float,
    server_failures: Sequence[tuple[float, str]],
) -> None:
    """Add what happened in each sandbox that a failed test used; for the terminal, and as properties for junitxml.

    Args:
        report: the test's report, changed in place.
        item: the test.
        sandboxes: the sandboxes that the test used, oldest first.
        test_started: when the test began; ``clock.monotonic()`` seconds.
        server_failures: when the end of an embedded server was noticed, and the text of it.
    """
    # A server that ended before the test and its sandboxes began did not affect the test.
    began = min([test_started, *(sandbox.started for sandbox in sandboxes)])
    sections = [("embedded server", escape(text)) for noticed, text in server_failures if noticed >= began]
    for sandbox in sandboxes:
        title = f"sandbox {escape(sandbox.id)} ({escape(sandbox.image)})"
        sections.append((title, transcript(sandbox, since=test_started)))
    for section in sections:
        report.sections.append(section)
        if section not in item.user_properties:
            item.user_properties.append(section)
            report.user_properties.append(section)


def transcript(sandbox: Sandbox, *, since: float) -> str:
    """Return a sandbox's last commands, with their outcomes and the tails of their output.

    Args:
        sandbox: open or closed.
        since: leave out what began earlier; ``clock.monotonic()`` seconds.

    Returns:
        Lines of printable characters; everything else is escaped.
    """
    records = [record for record in list(sandbox.history) if record.started >= since]
    shown = records[-_COMMANDS_SHOWN:]
    copies = sum(record.is_copy for record in records)
    notes = sum(record.is_note for record in records)
    earlier_commands, earlier_copies = sandbox.history.forgotten(since)
    commands, copies = len(records) - copies - notes + earlier_commands, copies + earlier_copies
    count = counted(commands, "command")
    if copies:
        count += f" and {counted(copies, 'copy', 'copies')}"
    last = f", the last {len(shown)} of them" if len(shown) < commands + copies + notes else ""
    origin = f", restored after `{sandbox.prepared_by}`" if sandbox.prepared_by else ""
    lines = [f"id={sandbox.id}, image={sandbox.image}{origin}, {sandbox.state}; {count}{last}"]
    for record in shown:
        lines += _record_lines(record)
    for process in sandbox.processes:
        lines += _process_lines(process)
    return escape("\n".join(lines))


def _record_lines(record: CommandRecord) -> list[str]:
    prompt = "" if record.is_copy or record.is_note else "$ "
    lines = [prompt + _shown(record.command), f"  [{record.outcome}, {record.duration:.2f} s]"]
    return lines + _tail_lines(record.stdout_tail, record.stderr_tail)


def _process_lines(process: Process) -> list[str]:
    state = "running" if process.returncode is None else f"exit {process.returncode}"
    return [f"$ {_shown(process.args)} &", f"  [process {process.pid}, {state}]", *_tail_lines(*process.tails)]


def _shown(command: str | Sequence[str]) -> str:
    text = command if isinstance(command, str) else shlex.join(command)
    if len(text) > _COMMAND_CHARACTERS:
        text = f"{text[:_COMMAND_CHARACTERS]}… ({len(text):,} characters)"
    return text.replace("\n", "\n  ")


def _tail_lines(stdout: str, stderr: str) -> list[str]:
    lines = []
    for name, tail in (("stdout", stdout), ("stderr", stderr)):
        shown = tail.splitlines()
        if len(shown) > _LINES_SHOWN or len(tail.encode()) >= TAIL_BYTES:
            lines.append(f"  {name}| … the end of it:")
        lines += [f"  {name}| {line}" for line in shown[-_LINES_SHOWN:]]
    return lines
