"""Keeps root's sandboxes from changing this machine's device nodes: they own them, and may open them like anybody."""

from __future__ import annotations

import ctypes
import os

_NODES = ("full", "null", "random", "tty", "urandom", "zero")
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 32, 4096, 16384, 1 << 19
# A mount that another namespace owns may not lose these: without programs, set-id bits, devices, access times.
_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME


def protect_devices() -> bool:
    """Give the calling thread, and what it starts, read-only mounts of the nodes that a sandbox sees.

    Such a node can be written to as before, but its mode, owner and times cannot be changed. For an ordinary user's
    sandboxes that holds anyway.

    Returns:
        False where it cannot be done: a container's root without the right to mount, whose nodes are the container's.
    """
    if os.geteuid() != 0:
        return True
    libc = ctypes.CDLL(None)
    # A thread shares its working directory and its mounts with the others until it says otherwise.
    if libc.unshare(_CLONE_FS | _CLONE_NEWNS) or libc.mount(
        None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None
    ):
        return False
    nodes = [f"/dev/{name}" for name in _NODES if os.path.exists(f"/dev/{name}")]
    unprotected = [node for node in nodes if not _protect(libc, node)]
    return not unprotected


def _protect(libc: ctypes.CDLL, node: str) -> bool:
    path, kept = node.encode(), os.statvfs(node).f_flag & _KEPT
    if libc.mount(path, path, None, ctypes.c_ulong(_MS_BIND), None):
        return False
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept
    return not libc.mount(None, path, None, ctypes.c_ulong(flags), None)
