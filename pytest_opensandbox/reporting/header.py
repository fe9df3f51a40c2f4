"""The header line of a run."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from pytest_opensandbox.settings.options import DOCKER, EMBEDDED, OPTIONS
from pytest_opensandbox.settings.settings import Settings
from pytest_opensandbox.text import escape

_ALWAYS_SHOWN = ("url", "image")
_FILTERED_MACHINES = ("x86_64", "aarch64")


def header_line(settings: Settings, run_id: str) -> str:
    """Return where sandboxes come from, each value that is not the default, and the place that set it."""
    parts = []
    for option in OPTIONS:
        source = settings.sources[option.name]
        if option.name in _ALWAYS_SHOWN or source != "default":
            name = "" if option.name == "url" else f"{option.name}="
            place = option.env if source == "environment" else source
            parts.append(f"{name}{escape(option.shown(getattr(settings, option.field)))} ({place})")
    return f"opensandbox: {', '.join(parts)}, isolation={_isolation(settings)}, run={run_id}"


def _isolation(settings: Settings) -> str:
    namespaces = "bubblewrap namespaces" if _has_call_filter() else "bubblewrap namespaces (no seccomp filter)"
    return {EMBEDDED: namespaces, DOCKER: "containers"}.get(settings.url, "the server's")


def _has_call_filter() -> bool:
    """Return whether the embedded server's sandboxes get a seccomp filter: it has one for 64-bit x86 and ARM."""
    if sys.platform != "linux":
        return True  # the server does not run here, and its own error says why
    if platform.machine() not in _FILTERED_MACHINES or sys.maxsize <= 1 << 32:
        return False
    return "\nSeccomp:" in Path("/proc/self/status").read_text(encoding="utf-8")
