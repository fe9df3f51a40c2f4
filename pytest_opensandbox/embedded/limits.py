"""How much of this machine a sandbox may use, as far as that can be said without control groups."""

from __future__ import annotations

import os
import re
import resource
from contextlib import suppress

MOST_PROCESSES = 4096

_OOM_SCORE = 500
_COUNTS_BY_NAMESPACE = (5, 15)
# One byte: 0 would keep the kernel from writing files, but not from starting the host's crash handler.
_CORE_BYTES = 1
_MOST_FILES = 1 << 20


def private_bytes() -> int:
    """Return what one sandbox may keep in its private directories: a quarter of the memory, at least 256 MiB."""
    return max(256 << 20, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)


def most_processes() -> int | None:
    """Return how many processes and threads one sandbox may have at a time, None where the kernel cannot say.

    Older kernels would count those that the user has outside too, and of root they count none.
    """
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    return MOST_PROCESSES if os.geteuid() != 0 and release >= _COUNTS_BY_NAMESPACE else None


def step_back() -> None:
    """Have this process, and what it starts, go first when memory runs short, and dump no cores."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        score = max(int(file.read()), _OOM_SCORE)
        file.seek(0)
        file.write(str(score))
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
