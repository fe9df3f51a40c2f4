"""The state in which the agent and every command begin: signals, umask and limits."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

_UMASK = 0o022
# Python ignores these two itself, and gives them their meaning again in what it starts.
_LEFT_TO_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_ANY = resource.RLIM_INFINITY
_LIMITS = {
    resource.RLIMIT_AS: (_ANY, _ANY),
    resource.RLIMIT_CPU: (_ANY, _ANY),
    resource.RLIMIT_DATA: (_ANY, _ANY),
    resource.RLIMIT_FSIZE: (_ANY, _ANY),
    resource.RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
    resource.RLIMIT_MSGQUEUE: (819_200, 819_200),
    resource.RLIMIT_NICE: (0, 0),
    resource.RLIMIT_NOFILE: (8_192, 65_536),
    resource.RLIMIT_RTPRIO: (0, 0),
    resource.RLIMIT_STACK: (8 << 20, _ANY),
}


def set_start_state(*, most_processes: int | None) -> None:
    """Give signals their default meaning, block none, and set the umask and the limits.

    Args:
        most_processes: processes and threads at a time; None for as many as before.
    """
    for number in signal.valid_signals() - _LEFT_TO_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(_UMASK)
    for kind, (soft, hard) in _LIMITS.items():
        _limit(kind, soft, hard)
    if most_processes:
        # Here and not before: only inside does the kernel count the sandbox alone.
        _limit(resource.RLIMIT_NPROC, most_processes, most_processes)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or what the hard limit that is there leaves of it."""
    hard = _smaller(hard, resource.getrlimit(kind)[1])
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (_smaller(soft, hard), hard))


def _smaller(one: int, other: int) -> int:
    return min((limit for limit in (one, other) if limit != _ANY), default=_ANY)
