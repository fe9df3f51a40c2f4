"""The user namespaces of the server and of its sandboxes, and what root may do in them."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_opensandbox.embedded.runtime.limits import MAX_PROCESSES

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.runtime.id_ranges import IdRange
    from pytest_opensandbox.embedded.runtime.identities import Identity

# Root in a sandbox is the server's user outside: the only one that there is inside.
_OWN_USER = ("--unshare-user", "--uid", "0", "--gid", "0")
# Used if no filter refuses namespaces. It adds one more namespace, in which ports below 1024 cannot be bound.
_NO_FURTHER_NAMESPACES = "--disable-userns"
# The capabilities of root in a container that concern the sandbox's own files and processes, and not the host.
_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"),
    "CAP_NET_BIND_SERVICE",
)
_PROGRAM = Path(__file__).with_name("user_namespaces_program.py")
_REASON_BYTES = 500
# The processes of bubblewrap around a sandbox count as well.
_AROUND = 8
_CLONE_NEWUSER = 0x10000000
_CAP_SYS_ADMIN = 1 << 21


class NamespaceMaker:
    """The program that makes the user namespaces of sandboxes; used by one thread at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", str(_PROGRAM)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
            )

    def make(self, ids: IdRange) -> tuple[int, int]:
        """Return descriptors of two new namespaces, the second one in the first.

        Args:
            ids: the host's ids of their users and groups.

        Raises:
            OSError: the kernel refuses.
        """
        self._socket.send(f"{ids.first} {ids.count} {MAX_PROCESSES + _AROUND}".encode())
        reply, namespaces, _, _ = socket.recv_fds(self._socket, _REASON_BYTES, 2)
        if len(namespaces) != 2:
            raise OSError(f"no user namespace for a sandbox: {reply.decode(errors='replace')}")
        outer, inner = namespaces
        for namespace in namespaces:
            os.set_inheritable(namespace, False)
        return outer, inner

    def close(self) -> None:
        """End the program."""
        self._socket.close()
        self._process.wait()


def user_options(identity: Identity | None, *, is_filtered: bool) -> tuple[list[str], list[str]]:
    """Return the options for the outer user namespace, and for the sandbox's with its capabilities."""
    if identity:
        outer, inner = (["--userns", str(namespace)] for namespace in identity.namespaces)
    else:
        outer, inner = ["--unshare-user"], [*_OWN_USER, *([] if is_filtered else [_NO_FURTHER_NAMESPACES])]
    if not identity and os.geteuid() == 0:
        # Everything of the host's root would count as the sandbox's own. With a /proc that belongs to the outer
        # namespace, in which its bubblewrap covers what this root could change, the sandbox could not have one.
        outer += ["--dev-bind", "/proc", "/proc"]
    else:
        # The inner bubblewrap looks there for processes as the outer namespace numbers them.
        outer += ["--proc", "/proc"]
        inner += [part for name in _CAPABILITIES for part in ("--cap-add", name)]
    return outer, inner


def enter_own_namespace() -> bool:
    """Make this process, which has one thread, root of a new user namespace if it may not mount without one.

    A root without rights, as in a container, may then mount. Every id keeps its number, so it still owns its files.

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
    """Map every id to itself, from outside: the process in the namespace no longer has the rights for it."""
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
