"""Process 1 of a sandbox: it starts the agent, collects processes that lost their parent, and ends on SIGTERM."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_KEPT_DESCRIPTORS, _MOST_DESCRIPTORS = 3, 65_536


def become_init() -> None:
    """Return in a child if this is process 1 of its namespace, and at once where it is not.

    The kernel keeps signals without a handler from process 1, so that it would survive what ends a container.
    """
    if os.getpid() == 1 and (agent := os.fork()):
        _collect_until_end_of(agent)


def _collect_until_end_of(agent: int) -> NoReturn:
    """Collect whatever ends, until the agent has: all that still runs then ends with this process."""
    for number in _SIGNALS:
        signal.signal(number, lambda received, _: os._exit(128 + received))
    os.closerange(_KEPT_DESCRIPTORS, _MOST_DESCRIPTORS)
    while True:
        pid, status = os.wait()
        if pid == agent:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
