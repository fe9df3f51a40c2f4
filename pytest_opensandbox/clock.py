"""Clocks that go on when a test freezes time, because the libraries for that replace other functions of ``time``."""

from __future__ import annotations

import sys
import time

# Such libraries know CLOCK_REALTIME by its number. This one of Linux has the same time, to a few milliseconds.
_WALL_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME


def monotonic() -> float:
    """Return the seconds of a clock that never goes back."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def wall_time() -> float:
    """Return the seconds since 1970."""
    return time.clock_gettime(_WALL_CLOCK)
