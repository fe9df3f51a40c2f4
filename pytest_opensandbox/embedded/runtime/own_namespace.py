"""A user namespace for a server that is root without the rights of one, as in a container: there it may mount.

Every id stays what it is, so the files that this root owns are still its own.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CAP_SYS_ADMIN = 1 << 21


def enter_own_namespace() -> bool:
    """Have this process, which has one thread, be root of a namespace of its own where it may not mount without.

    Returns:
        Whether it may mount now.
    """
    if os.geteuid() != 0 or _may_mount():
        return os.geteuid() == 0
    waiting, entered = os.pipe2(os.O_CLOEXEC)
    maps = {kind: _same_ids(Path(f"/proc/self/{kind}_map").read_text()) for kind in ("uid", "gid")}
    child = os.fork()
    if child == 0:
        os.close(entered)
        _write_maps(os.getppid(), maps, waiting)
    os.close(waiting)
    is_new = ctypes.CDLL(None).unshare(_CLONE_NEWUSER) == 0
    if is_new:
        os.write(entered, b"\0")
    os.close(entered)
    os.waitpid(child, 0)
    return is_new and _may_mount()


def _write_maps(pid: int, maps: dict[str, str], waiting: int) -> None:
    """Map every id to itself from outside, which takes rights that the process in the namespace no longer has there."""
    try:
        if os.read(waiting, 1):
            for kind, text in maps.items():
                with suppress(OSError):
                    Path(f"/proc/{pid}/{kind}_map").write_text(text)
    finally:
        os._exit(0)


def _same_ids(mapped: str) -> str:
    lines = [line.split() for line in mapped.splitlines()]
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in lines)


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return bool(effective & _CAP_SYS_ADMIN) and os.getuid() == 0
