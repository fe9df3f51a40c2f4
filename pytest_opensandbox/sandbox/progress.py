"""Says what a wait is for, once it has lasted so long that somebody may wonder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

SILENCE_SECONDS = 5.0
"""How long a wait may last before it is explained."""

Tell = Callable[[str], None]


class Progress:
    """Watches waits from one thread, which the first of them starts; short waits cost next to nothing.

    Args:
        tell: shows a line to whoever waits; called from that thread. None for nobody.
    """

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._waits: dict[Phases, tuple[float, str]] = {}
        self._thread: threading.Thread | None = None
        self._is_idle = False
        self._is_closed = False

    def phases(self) -> Phases:
        """Return a new wait, in no phase yet."""
        return Phases(self)

    def close(self) -> None:
        """Tell nothing more; safe to call again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _watch_over(self, wait: Phases, phase: str) -> None:
        if self._tell is None:
            return
        with self._changed:
            self._waits[wait] = (time.monotonic() + SILENCE_SECONDS, phase)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="opensandbox-progress", daemon=True)
                self._thread.start()
            elif self._is_idle:
                # A thread that is not idle wakes before this wait is over, and need not be woken for it.
                self._changed.notify()

    def _forget(self, wait: Phases) -> None:
        with self._changed:
            self._waits.pop(wait, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._is_closed:
                    return
                now = time.monotonic()
                late = {wait: phase for wait, (due, phase) in self._waits.items() if due <= now}
                for wait in late:
                    del self._waits[wait]
                if not late:
                    first = min((due for due, _ in self._waits.values()), default=None)
                    self._is_idle = first is None
                    self._changed.wait(None if first is None else first - now)
            for wait, phase in late.items():
                wait.tell(self._tell, phase)


class Phases:
    """The phases of one wait; each is told once, if it lasts. As a context manager it falls silent at the end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told: set[str] = set()

    def enter(self, phase: str) -> None:
        """Begin a phase, and leave the one before.

        Args:
            phase: what is being waited for, as a sentence without its end.
        """
        if phase in self._told:
            self._progress._forget(self)
        else:
            self._progress._watch_over(self, phase)

    def tell(self, tell: Tell | None, phase: str) -> None:
        """Tell a phase that has lasted, and for how long."""
        self._told.add(phase)
        if tell is not None:
            tell(f"{phase} ({SILENCE_SECONDS:g} s so far)")

    def __enter__(self) -> Phases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress._forget(self)
