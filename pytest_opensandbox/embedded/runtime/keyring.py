"""Gives each sandbox a session keyring of its own: the kernel hands the host's down to children, namespaces or not."""

from __future__ import annotations

import ctypes
import platform

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


def leave_session_keyring() -> bool:
    """Give the calling thread, and what it starts, an empty session keyring of its own.

    Returns:
        False where that cannot be done: an unknown processor, or a kernel without keyrings, which then leaks none.
    """
    number = _KEYCTL.get(platform.machine())
    if number is None:
        return False
    keyring: int = ctypes.CDLL(None).syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)
    return keyring >= 0
