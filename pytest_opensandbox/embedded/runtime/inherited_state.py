"""The inherited state that the server resets: signals, limits, umask, core dumps and the session keyring."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from contextlib import suppress

UMASK = 0o022

# Python itself ignores these two, so that a write to a closed pipe or beyond a limit raises an error.
_LEFT_TO_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_RAISED = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK", "RLIMIT_NOFILE", "RLIMIT_NPROC")
# Each sandbox takes some of the server's. More than this is no use, and slow for programs that close all of them.
_MAX_FILES = 65_536
_PLAIN_PERSONALITY = 0
# One byte: 0 would keep the kernel from writing files, but not from starting the host's crash handler.
_CORE_BYTES = 1
_KEYCTL_JOIN_SESSION_KEYRING = 1
# The C library has no function for it, and the number of a system call depends on the processor.
_KEYCTL = {
    "aarch64": 219,
    "armv7l": 311,
    "i686": 288,
    "loongarch64": 219,
    "ppc64le": 271,
    "riscv64": 219,
    "s390x": 280,
    "x86_64": 250,
}


def set_start_state() -> None:
    """Reset signals, umask, niceness, personality and soft limits.

    Hard limits stay, and an ordinary user's niceness, because only a privileged process may change them.
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
    is_too_much = kind == resource.RLIMIT_NOFILE and (hard == resource.RLIM_INFINITY or hard > _MAX_FILES)
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (_MAX_FILES if is_too_much else hard, hard))


def disable_core_dumps() -> None:
    """Disable core dumps of this process and of its children."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (_CORE_BYTES, _CORE_BYTES))


def join_new_session_keyring() -> bool:
    """Give the calling thread and its children a new, empty session keyring.

    The kernel passes the host's keyring on to children, whatever their namespaces.

    Returns:
        False for an unknown processor, or for a kernel without keyrings, which leaks none.
    """
    number = _KEYCTL.get(platform.machine())
    if number is None:
        return False
    keyring: int = ctypes.CDLL(None).syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)
    return keyring >= 0
