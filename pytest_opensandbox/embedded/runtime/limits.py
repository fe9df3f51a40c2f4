"""How much of this machine a sandbox may use, as far as that can be said without control groups."""

from __future__ import annotations

import os
import re
import resource
from contextlib import suppress

from pytest_opensandbox.embedded.runtime.memory import usable_bytes

MOST_PROCESSES = 4096

_LEAST_PRIVATE_BYTES = 256 << 20
_COUNTS_BY_NAMESPACE = (5, 15)
# For a shell that becomes what is to go first when memory runs short: before pytest, the server and all else.
_FIRST_TO_GO = '{ echo 1000 > /proc/self/oom_score_adj; } 2> /dev/null; exec "$@"'
# One byte: 0 would keep the kernel from writing files, but not from starting the host's crash handler.
_CORE_BYTES = 1
_MOST_FILES = 1 << 20


def private_bytes() -> int:
    """Return what one sandbox may write: a quarter of the memory, at least 256 MiB where that is no more than half."""
    usable = usable_bytes()
    return max(usable // 4, min(_LEAST_PRIVATE_BYTES, usable // 2))


def first_to_go() -> list[str]:
    """Return what to put before a command so that it, and what it starts, ends first when memory runs short."""
    return ["/bin/sh", "-c", _FIRST_TO_GO, "sh"]


def most_processes() -> int | None:
    """Return how many processes and threads one sandbox may have at a time, None where the kernel cannot say.

    Older kernels would count those that the user has outside too.
    """
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    return MOST_PROCESSES if release >= _COUNTS_BY_NAMESPACE else None


def leave_no_cores() -> None:
    """Have this process, and what it starts, dump no cores."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (_CORE_BYTES, _CORE_BYTES))


def raise_file_limit() -> int:
    """Let this process have as many open files as it may have; return how many these are.

    Each connection through the server takes two, and each sandbox about ten.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, _MOST_FILES)
