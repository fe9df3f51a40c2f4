"""Servers of a run that ended by themselves: when that was noticed, and what is told of it."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass

LEFT_STATUS = 3
"""What the embedded server exits with where a sandbox did not end."""

_MEMORY = (
    "The kernel kills in this way where memory runs out: give the machine more of it, run fewer workers, or have the"
    " sandboxes write less to /tmp and /dev/shm."
)


def ending(status: int | None) -> str:
    """Return how a process with an exit status ended, such as ``was killed by SIGKILL``."""
    if status is None or status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


@dataclass(frozen=True)
class ServerFailure:
    """One embedded server that ended while its run went on."""

    noticed: float
    """``time.monotonic()`` when it was noticed: each sandbox that was made earlier has ended with it."""
    ending: str
    """How it ended, such as ``was killed by SIGKILL``."""
    last_words: str
    """The end of its standard error, or ""."""

    @property
    def story(self) -> str:
        """Lines for the report of a test that used the server."""
        lines = [
            f"The embedded server of this test {self.ending}, and its sandboxes ended with it.",
            "The next test that needs a sandbox gets a new server.",
            f"Its last words: {self.last_words or 'none'}",
        ]
        return "\n".join(lines + ([_MEMORY] if "SIGKILL" in self.ending else []))

    def line(self, *, worker_id: str, nodeid: str) -> str:
        """Return one line for the summary of the run.

        Args:
            worker_id: the worker whose server it was; ``main`` for none.
            nodeid: the test that was running, "" for none.
        """
        whose = "the embedded server" if worker_id == "main" else f"the embedded server of {worker_id}"
        where = f" in {nodeid}" if nodeid else ""
        return f"{whose} {self.ending}{where}; what needed a sandbox later got a new one"
