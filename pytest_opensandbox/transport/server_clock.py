"""The clock of a server, as its answers show it."""

from __future__ import annotations

import threading
import time

from pytest_opensandbox.transport.refusals import read_date

_LAST_MOMENT = 7_258_118_400.0  # the year 2200


class ServerClock:
    """What time it is where a server is; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = 0.0

    def note(self, date: str | None) -> None:
        """Take in the header ``Date`` of an answer; a date that is none, or far away from any clock, says nothing."""
        moment = read_date(date)
        # Times that are counted from here must stay such that they can be written.
        if moment is not None and 0 <= moment < _LAST_MOMENT:
            with self._lock:
                self._offset = moment - time.time()

    def now(self) -> float:
        """Return the time; seconds since 1970."""
        with self._lock:
            return time.time() + self._offset
