"""Messages for the user about waits that last long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from pytest_opensandbox.clock import monotonic

Notify = Callable[[str], None]


class Progress:
    """Watches waits from one thread, which the first wait starts; short waits cost next to nothing.

    Args:
        notify: shows the user a line; called from that thread. None to show nothing.
    """

    notice_seconds = 5.0
    """How long a phase may last before the user is notified of it."""

    def __init__(self, notify: Notify | None) -> None:
        self._notify = notify
        self._changed = threading.Condition()
        self._waits: dict[Phases, tuple[float, str]] = {}
        self._thread: threading.Thread | None = None
        self._is_idle = False
        self._is_closed = False

    def phases(self) -> Phases:
        """Return a new wait, in no phase yet."""
        return Phases(self)

    def close(self) -> None:
        """Show nothing more; safe to call again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def watch(self, wait: Phases, phase: str) -> None:
        """Notify the user if a wait is still in this phase after ``notice_seconds``."""
        if self._notify is None:
            return
        with self._changed:
            self._waits[wait] = (monotonic() + self.notice_seconds, phase)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="opensandbox-progress", daemon=True)
                self._thread.start()
            elif self._is_idle:
                # A thread that is not idle wakes before this wait is over, and need not be woken for it.
                self._changed.notify()

    def forget(self, wait: Phases) -> None:
        """Watch a wait no longer."""
        with self._changed:
            self._waits.pop(wait, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._is_closed:
                    return
                now = monotonic()
                late = {wait: phase for wait, (due, phase) in self._waits.items() if due <= now}
                for wait in late:
                    del self._waits[wait]
                if not late:
                    first = min((due for due, _ in self._waits.values()), default=None)
                    self._is_idle = first is None
                    self._changed.wait(None if first is None else first - now)
            for wait, phase in late.items():
                wait.shown.add(phase)
                if self._notify is not None:
                    self._notify(f"{phase} ({self.notice_seconds:g} s so far)")


class Phases:
    """The phases of one wait; each is shown once, if it lasts. As a context manager it ends the wait.

    Args:
        progress: watches the wait.
    """

    def __init__(self, progress: Progress) -> None:
        self.shown: set[str] = set()
        """The phases that the user was notified of."""
        self._progress = progress

    def enter(self, phase: str) -> None:
        """Begin a phase, and leave the one before.

        Args:
            phase: the reason to wait, as a sentence without its end.
        """
        if phase in self.shown:
            self._progress.forget(self)
        else:
            self._progress.watch(self, phase)

    def __enter__(self) -> Phases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.forget(self)
