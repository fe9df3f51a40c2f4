"""Processor and memory figures of the machine, from ``/proc``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from . import http
from .http import Request, Response

_SAMPLE_SECONDS = 1.0
_PAUSE_SECONDS = 1.0


def once(request: Request) -> Response:
    """Answer ``GET /metrics``; it takes a second, for processor use is measured over one."""
    return http.json_response(_figures())


def watch(request: Request) -> Response:
    """Answer ``GET /metrics/watch``: figures every two seconds, one JSON object a line."""
    return http.stream(_lines(request))


def _lines(request: Request) -> Iterator[bytes]:
    while not request.is_disconnected():
        time.sleep(_PAUSE_SECONDS)
        yield http.encode(_figures()) + b"\n"


def _figures() -> dict[str, Any]:
    now = time.time_ns() // 1_000_000
    used = _used_percent()
    memory = _memory_kib()
    free = sum(memory.get(name, 0) for name in ("MemFree", "Buffers", "Cached", "SReclaimable"))
    total = memory.get("MemTotal", 0)
    return {
        "cpu_count": len(os.sched_getaffinity(0)),
        "cpu_used_pct": used,
        "mem_total_mib": total / 1024,
        "mem_used_mib": (total - free) / 1024,
        "timestamp": now,
    }


def _used_percent() -> float:
    busy, total = _ticks()
    time.sleep(_SAMPLE_SECONDS)
    busy_later, total_later = _ticks()
    if total_later == total:
        return 0.0
    return max(0.0, min(100.0, 100.0 * (busy_later - busy) / (total_later - total)))


def _ticks() -> tuple[int, int]:
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in file.readline().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def _memory_kib() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        pairs = [line.split(":", 1) for line in file]
    return {name: int(value.split()[0]) for name, value in pairs}
