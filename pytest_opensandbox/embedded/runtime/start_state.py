"""The state in which the server and what it starts begin, whatever the state of the process that starts the server."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

UMASK = 0o022

# Python ignores these two itself, so that writing to a closed pipe or beyond a limit is an error and not the end.
_LEFT_TO_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_RAISED = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK", "RLIMIT_NOFILE", "RLIMIT_NPROC")
# Each sandbox takes some of the server's; more than this is of no use to it, and slow where all are closed in turn.
_MOST_FILES = 65_536
_PLAIN_PERSONALITY = 0


def set_start_state() -> None:
    """Give signals their default meaning, block none, and reset umask, niceness, personality and soft limits.

    What only a privileged process may undo stays as it is: hard limits, and for an ordinary user niceness.
    """
    for number in signal.valid_signals() - _LEFT_TO_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(UMASK)
    ctypes.CDLL(None).personality(_PLAIN_PERSONALITY)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    for name in _RAISED:
        _raise_limit(getattr(resource, name))


def _raise_limit(kind: int) -> None:
    """Raise a soft limit to the hard one, that of open files to what is of use."""
    _, hard = resource.getrlimit(kind)
    is_too_much = kind == resource.RLIMIT_NOFILE and (hard == resource.RLIM_INFINITY or hard > _MOST_FILES)
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (_MOST_FILES if is_too_much else hard, hard))
