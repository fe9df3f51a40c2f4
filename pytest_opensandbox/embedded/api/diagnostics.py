"""Diagnostics of a sandbox as text: its log, its events and a summary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from pytest_opensandbox.embedded.errors import refuse
from pytest_opensandbox.embedded.runtime.log import format_time
from pytest_opensandbox.embedded.state.sandboxes import SandboxRecord

NO_LOGS = "(no logs)"

_SCOPES = {"logs": ("container", "all"), "events": ("runtime", "all")}
_LINES = {"logs": 100, "events": 50}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SECRET = ("SECRET", "TOKEN", "PASSWORD", "KEY")


def describe_inline(record: SandboxRecord, kind: str, scope: str) -> dict[str, object]:
    """Return the log or the events as a JSON descriptor with inline text.

    Args:
        record: the sandbox.
        kind: ``logs`` or ``events``.
        scope: as in the request.

    Raises:
        RefusedError: no such scope.
    """
    normal = scope.strip().lower()
    if normal not in _SCOPES[kind]:
        supported = ", ".join(_SCOPES[kind])
        message = f"Unsupported {kind} diagnostics scope {scope!r}. Supported scopes: {supported}."
        refuse(400, "DIAGNOSTICS_SCOPE_UNSUPPORTED", message)
    limit = _LINES[kind]
    text = log_text(record, tail=limit + 1) if kind == "logs" else event_text(record)
    lines = text.splitlines(keepends=True)
    content = "".join(lines[-limit:])
    described: dict[str, object] = {
        "sandboxId": record.id,
        "kind": kind,
        "scope": normal,
        "delivery": "inline",
        "contentType": "text/plain; charset=utf-8",
        "content": content,
        "contentLength": len(content.encode()),
        "truncated": len(lines) > limit,
    }
    if normal == "all":
        described["warnings"] = [f"There are no {kind} here but those of the sandbox itself."]
    return described


def log_text(record: SandboxRecord, *, tail: int, since: str | None = None) -> str:
    """Return the last lines of a sandbox's log, each with its time.

    Args:
        record: the sandbox.
        tail: number of lines, at most.
        since: leave out what is older than this, such as ``10m``.
    """
    return record.process.log.text(tail=tail, since=_moment(since)) or NO_LOGS


def event_text(record: SandboxRecord) -> str:
    """Return when a sandbox was created and how it ended."""
    state, reason, _ = record.status
    lines = [f"Sandbox:    {record.id}", f"Status:     {state}", f"Created:    {format_time(record.created_at)}"]
    if record.ended_at:
        lines.append(f"Finished:   {format_time(record.ended_at)}")
    if record.process.exit_code:
        why = ", OOMKilled" if record.process.ran_out_of_memory else ""
        lines.append(f"Event:      {reason}, exit code {record.process.exit_code}{why}")
    return "\n".join(lines)


def inspect_text(record: SandboxRecord) -> str:
    """Return the configuration of a sandbox; values that look secret are masked."""
    lines = [
        event_text(record),
        f"Image:      {record.describe().get('image') or record.request.snapshot_id}",
        f"Entrypoint: {list(record.request.entrypoint)}",
        f"Exit code:  {record.process.exit_code}",
        "Labels:",
        *_pairs(record.metadata),
        "Environment:",
        *_pairs({name: _masked(name, value) for name, value in record.request.environment.items()}),
    ]
    return "\n".join(lines)


def summary_text(record: SandboxRecord, *, tail: int) -> str:
    """Return the configuration, the events and the last lines of the log.

    Args:
        record: the sandbox.
        tail: lines of its log at most.
    """
    return f"{inspect_text(record)}\n\nLast {tail} lines of the log:\n{log_text(record, tail=tail)}\n"


def _moment(since: str | None) -> datetime | None:
    """Return the time so long ago; ten minutes ago for a text that cannot be parsed."""
    if not since:
        return None
    match = re.fullmatch(r"(\d{1,6})\s*([smhd])", since.strip().lower())
    ago = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(minutes=10)
    try:
        return datetime.now(timezone.utc) - ago
    except OverflowError:  # before there were dates
        return None


def _pairs(pairs: Mapping[str, str]) -> list[str]:
    return [f"  {name}={value}" for name, value in sorted(pairs.items())]


def _masked(name: str, value: str) -> str:
    return "***" if any(word in name.upper() for word in _SECRET) else value
