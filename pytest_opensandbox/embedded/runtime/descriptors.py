"""Descriptors that a new process inherits: options in memory, and an input with nothing in it."""

from __future__ import annotations

import os
from collections.abc import Sequence


def empty_input() -> int:
    """Return a descriptor with nothing to read: that of /dev/null would lead to this machine's own node."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(writing)
    return reading


def in_memory(content: bytes) -> int:
    """Return a descriptor that is read from the start; each reader needs one of its own."""
    fd = os.memfd_create("for bubblewrap", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def nul_separated(arguments: Sequence[str]) -> bytes:
    """Return arguments as bubblewrap reads them from a descriptor."""
    return b"".join(argument.encode(errors="surrogateescape") + b"\0" for argument in arguments)
