"""Processes that the agent started: waited for, timed out, interrupted as a group, and ended with the agent."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress

from .spawn import outcome

TERM_GRACE_SECONDS = 3.0
_PROBE_SECONDS = 0.01

_started: set[int] = set()
"""Process groups in which something may still run."""


class WatchedProcess:
    """A process that leads its own group, watched by a thread until it has ended.

    Args:
        process: just started, in a session of its own.
        timeout_seconds: kill the group after that long; None is never.
        kills_group: whether what is left of the group dies with its leader.

    Attributes:
        ended: set when ``exit_code``, ``error`` and ``finished_at`` are there.
        exit_code: 0 to 255, or -1 for a signal; None while it runs.
        error: ``exit status 3``, ``signal: killed`` or empty.
        finished_at: nanoseconds since the epoch; 0 while it runs.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, timeout_seconds: float | None = None, kills_group: bool = False
    ) -> None:
        self.ended = threading.Event()
        self.exit_code: int | None = None
        self.error = ""
        self.finished_at = 0
        self._process = process
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout_seconds, self.signal_group, [signal.SIGKILL]) if timeout_seconds else None
        _started.add(process.pid)
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        threading.Thread(target=self._watch, args=(kills_group,), daemon=True).start()

    def signal_group(self, number: int) -> None:
        """Signal the whole group, unless its leader has been reaped: its number may mean somebody else by then."""
        with self._lock:
            if self._process.returncode is None:
                _signal(-self._process.pid, number)

    def kill_leader(self) -> None:
        """Kill the process but not its children."""
        with self._lock:
            if self._process.returncode is None:
                _signal(self._process.pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Send SIGTERM to the group, and SIGKILL when something of it is left after three seconds."""
        group = self._process.pid
        self.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + TERM_GRACE_SECONDS
        while _signal(-group, 0):
            if time.monotonic() >= deadline:
                _signal(-group, signal.SIGKILL)
                break
            time.sleep(_PROBE_SECONDS)
        self.ended.wait(1)

    def _watch(self, kills_group: bool) -> None:
        pid = self._process.pid
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert status is not None
        if self._timer:
            self._timer.cancel()
        with self._lock:
            # The leader is still a zombie here, so the number of its group cannot mean anybody else.
            if kills_group:
                _signal(-pid, signal.SIGKILL)
            self._process.wait()
        if not _signal(-pid, 0):
            _started.discard(pid)
        self.exit_code, self.error = outcome(status)
        self.finished_at = time.time_ns()
        self.ended.set()


def kill_all() -> None:
    """Kill every group that was started and in which something may still run."""
    for group in list(_started):
        if _is_still_ours(group):
            _signal(-group, signal.SIGKILL)


def _is_still_ours(group: int) -> bool:
    """Tell whether the number of a group has not passed to somebody else's process since its leader ended."""
    try:
        return os.getsid(group) == group
    except ProcessLookupError:
        return True


def _signal(target: int, number: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(target, number)
        return True
    return False
