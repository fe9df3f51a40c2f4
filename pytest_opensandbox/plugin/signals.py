"""Handlers of termination signals: the run ends as after Ctrl-C, so that its sandboxes are deleted."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType

_NUMBERS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)  # Windows knows the first only
)


class Signals:
    """Turns SIGTERM, SIGHUP and SIGQUIT into KeyboardInterrupt where no other code handles them.

    By default these end Python on the spot: no fixture, hook or exit handler runs, and the sandboxes stay. CI systems
    send them when a job is cancelled or a terminal closes, and a terminal sends SIGQUIT for Ctrl and backslash.

    Args:
        enabled: whether to do anything at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._process = os.getpid()
        self._taken: list[int] = []

    def take(self) -> None:
        """Handle the signals that no other code handles; does nothing outside the main thread; safe to call again."""
        if not self._enabled or threading.current_thread() is not threading.main_thread():
            return
        for number in _NUMBERS:
            # A signal that is ignored, as nohup does, stays ignored.
            if signal.getsignal(number) is signal.SIG_DFL and not _is_caught(number):
                signal.signal(number, self._interrupt)
                self._taken.append(number)

    def give_back(self) -> None:
        """Restore the default handlers, except where other code has set its own since; safe to call again."""
        if threading.current_thread() is not threading.main_thread():
            return
        while self._taken:
            number = self._taken.pop()
            if signal.getsignal(number) == self._interrupt:
                signal.signal(number, signal.SIG_DFL)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A child that a test has forked: multiprocessing, for one, ends its own by SIGTERM.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise KeyboardInterrupt(f"{signal.Signals(number).name} received")


def _is_caught(number: int) -> bool:
    """Say whether this process handles a signal outside of Python's own table, as ``faulthandler.register`` does."""
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> number - 1 & 1)
    return False
