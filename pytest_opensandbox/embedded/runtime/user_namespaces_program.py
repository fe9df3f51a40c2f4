"""The program that creates user namespaces for sandboxes; a process with threads cannot enter one.

It reads requests from the socket on standard input: the first host id, the number of ids, and the limit of processes.
Its reply is descriptors of two namespaces, the second one in the first, or the reason for a failure. The first id owns
both, and is user 0 in them. The program ends when the server has ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
from typing import NoReturn

_CLONE_NEWUSER = 0x10000000
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 4, 8
_CAPABILITY_VERSION = 0x20080522
_REQUEST_BYTES, _REASON_BYTES = 100, 500
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve until the other end closes."""
    server = socket.socket(fileno=0)
    while request := server.recv(_REQUEST_BYTES):
        first, count, processes = map(int, request.split())
        try:
            outer, inner = _make(first, count, processes)
        except OSError as error:
            server.send(str(error).encode()[:_REASON_BYTES])
            continue
        socket.send_fds(server, [b"\0"], [outer, inner])
        for namespace in (outer, inner):
            os.close(namespace)


def _make(first: int, count: int, processes: int) -> list[int]:
    """Return descriptors of the outer and the inner namespace.

    Raises:
        OSError: the kernel refuses.
    """
    ours, theirs = socket.socketpair()
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _in_child(theirs, lambda: _become_outer(theirs, first, processes, f"0 0 {count}"))
        theirs.close()
        try:
            _expect(ours)
            _write_maps(pid, f"0 {first} {count}")
            ours.send(b"\0")
            reply, namespaces, _, _ = socket.recv_fds(ours, _REASON_BYTES, 2)
            if len(namespaces) != 2:
                raise OSError(reply.decode(errors="replace") or "no answer")
            return namespaces
        finally:
            ours.close()
            os.waitpid(pid, 0)


def _become_outer(parent: socket.socket, owner: int, processes: int, inner_map: str) -> None:
    """Enter the outer namespace as the one who owns it, make the inner one, and send both to the parent."""
    os.setgroups([])
    _LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresgid(owner, owner, owner)
    os.setresuid(owner, owner, owner)
    _LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # or the files in /proc that take the maps belong to root
    _raise_capabilities()  # some systems let only privileged processes make namespaces
    _enter_new()
    parent.send(b"\0")
    _expect(parent)
    with open("/proc/sys/user/max_user_namespaces", "w") as limit:
        limit.write("1")  # the inner one: nothing in it can make any more
    # The kernel holds all users of a namespace together to what its creator was allowed.
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _in_child(theirs, lambda: _become_inner(theirs))
    theirs.close()
    _expect(ours)
    _write_maps(pid, inner_map)
    namespaces = [os.open(f"/proc/{process}/ns/user", os.O_RDONLY) for process in ("self", pid)]
    socket.send_fds(parent, [b"\0"], namespaces)
    ours.close()
    os.waitpid(pid, 0)  # the first process of a container may not collect it


def _become_inner(parent: socket.socket) -> None:
    """Be in the inner namespace until the parent has what it needs of it."""
    _enter_new()
    parent.send(b"\0")
    parent.recv(1)


def _in_child(parent: socket.socket, work: object) -> NoReturn:
    """Do a child's work and exit; send a failure to the parent."""
    try:
        work()  # type: ignore[operator]  # typing.Callable is slow to import
    except OSError as error:
        parent.send(str(error).encode()[:_REASON_BYTES])
    finally:
        os._exit(0)


def _expect(other: socket.socket) -> None:
    """Wait until the other end reports that it is ready.

    Raises:
        OSError: it reports a failure.
    """
    reply = other.recv(_REASON_BYTES)
    if reply != b"\0":
        raise OSError(reply.decode(errors="replace") or "no answer")


def _write_maps(pid: int, line: str) -> None:
    for kind in ("uid", "gid"):
        with open(f"/proc/{pid}/{kind}_map", "w") as file:
            file.write(line)


def _enter_new() -> None:
    if _LIBC.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), f"no user namespace: {os.strerror(ctypes.get_errno())}")


def _raise_capabilities() -> None:
    """Make the permitted capabilities effective again, which a change of the user has ended."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    if _LIBC.capget(header, sets) == 0:
        sets[0], sets[3] = sets[1], sets[4]
        _LIBC.capset(header, sets)


if __name__ == "__main__":
    main()
