"""The program that stops all processes of a sandbox from inside its process namespace; its order comes as JSON.

Signals to one process after the other do not reach those that fork meanwhile. A signal to all, from a process of the
same namespace, is one step for the kernel: it also reaches children that are just being created.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_NS_GET_USERNS = 0xB701
_PR_SET_PDEATHSIG = 1
_ALL_PROCESSES = -1
_STILL = frozenset("TtZXx")
_WAITS_IN_KERNEL = "D"
# vfork, clone and clone3: there a parent waits for its child, which is stopped, and can be stopped no further.
_FORKS = {"x86_64": {"56", "58", "435"}, "aarch64": {"220", "435"}}
_PAUSE_SECONDS = 0.002
_STATE, _THREADS, _STARTED = 0, 17, 19
_OWN = "it is the server's own"
# By the second a process ends, and then the kernel sends the first to those whose job control ends with it.
_WAKE_UP = (signal.SIGCONT, signal.SIGKILL)


class StopError(Exception):
    """A process still runs, or will run again; the text names the reason."""


class Thread(NamedTuple):
    """One thread of a process in a sandbox, as its own /proc numbers it."""

    process: int
    id: int
    started: int
    state: str


def main() -> None:
    """Stop everything, and write as JSON what was stopped before, or an error."""
    order = json.load(sys.stdin)
    try:
        _enter(order["namespace"], order["parent"])
    except OSError as error:
        _answer({"error": f"its namespace cannot be entered: {error.strerror}"})
    deadline = time.monotonic() + order["seconds"]
    if child := _fork(deadline):  # only children are in the namespace
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if os.getppid():  # a parent is seen, so this is its namespace, and a signal to all would reach the server
        _answer({"error": _OWN})
    _die_with_parent()
    own = os.getpid() if order["is_inside"] else None
    try:
        _answer({"stopped": stop_all(order["processes"], deadline=deadline, own=own)})
    except StopError as error:
        _signal_all(signal.SIGCONT)
        _answer({"error": str(error)})


def stop_all(proc: int, *, deadline: float, own: int | None) -> list[tuple[int, int]]:
    """Stop every process of this namespace but the first and this one; return once that is seen.

    Args:
        proc: descriptor of the sandbox's /proc.
        deadline: end of the attempts; ``time.monotonic()`` seconds.
        own: this process's number there; None where it is not in the sandbox's own namespace.

    Returns:
        Id and start of each process that was stopped already.

    Raises:
        StopError: not everything could be stopped.
    """
    before = sorted(_stopped(_threads(proc)))
    seen: set[Thread] | None = None
    while True:
        _signal_all(signal.SIGSTOP)
        now = {thread for thread in _threads(proc) if thread.process != own}
        if not all(_is_still(proc, thread) for thread in now):
            seen = None
        elif now == seen:  # twice the same: no process was missed in between, and no timer fired
            return before
        else:
            _refuse_timers(proc, {thread.process for thread in now})
            seen = now
        if time.monotonic() > deadline:
            raise StopError("something in it still runs, however often it is stopped")
        time.sleep(_PAUSE_SECONDS)


def _enter(namespace: int, parent: int) -> None:
    """Enter a process namespace and the user namespace that it belongs to, and end with the server.

    The kernel lets a process enter only a namespace below its own, or its own.

    Raises:
        OSError: it is the server's own, or the kernel refuses.
    """
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    if _is_own(namespace, "pid") or _is_own(owner, "user"):
        raise OSError(errno.EINVAL, _OWN)
    libc = ctypes.CDLL(None, use_errno=True)
    for descriptor, kind in ((owner, _CLONE_NEWUSER), (namespace, _CLONE_NEWPID)):
        if libc.setns(descriptor, kind):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _die_with_parent()  # not before: the kernel forgets it when rights change
    if os.getppid() != parent:
        sys.exit(1)


def _is_own(namespace: int, kind: str) -> bool:
    """Say whether this process is in a namespace, so that the server is as well."""
    return os.path.samestat(os.fstat(namespace), os.stat(f"/proc/self/ns/{kind}"))


def _fork(deadline: float) -> int:
    """Fork; try again while the sandbox uses up the limit of processes."""
    while True:
        try:
            return os.fork()
        except OSError as error:  # any other, such as ENOMEM: the sandbox has ended
            if error.errno != errno.EAGAIN or time.monotonic() > deadline:
                _answer({"error": f"no process can be started to stop it: {error.strerror}"})


def _signal_all(number: signal.Signals) -> None:
    """Send a signal to all processes of this namespace but the first and this one."""
    with suppress(ProcessLookupError):
        os.kill(_ALL_PROCESSES, number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _threads(proc: int) -> Iterator[Thread]:
    """Yield all threads in the sandbox."""
    for process in _numbers(proc, "."):
        with suppress(OSError):  # ended in the meantime
            fields = _fields(proc, f"{process}/stat")
            if fields[_THREADS] in "01":  # 0: it has ended, and its parent has not waited for it
                yield Thread(process, process, int(fields[_STARTED]), fields[_STATE])
                continue
            for thread in _numbers(proc, f"{process}/task"):
                with suppress(OSError):
                    fields = _fields(proc, f"{process}/task/{thread}/stat")
                    yield Thread(process, thread, int(fields[_STARTED]), fields[_STATE])


def _fields(proc: int, name: str) -> list[str]:
    """Return what stands behind the program's name in a file of the kernel's about a process."""
    return _read(proc, name).rpartition(")")[2].split()


def _numbers(proc: int, name: str) -> list[int]:
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    except OSError:
        return []
    try:
        return sorted(int(entry) for entry in os.listdir(directory) if entry.isdecimal())
    except OSError:
        return []
    finally:
        os.close(directory)


def _read(proc: int, name: str) -> str:
    with open(os.open(name, os.O_RDONLY, dir_fd=proc), encoding="utf-8", errors="replace") as file:
        return file.read()


def _stopped(threads: Iterator[Thread]) -> set[tuple[int, int]]:
    """Return id and start of the processes that are stopped, by the first of their threads."""
    return {
        (thread.process, thread.started) for thread in threads if thread.state == "T" and thread.id == thread.process
    }


def _is_still(proc: int, thread: Thread) -> bool:
    """Say whether a thread does nothing more until it is continued."""
    if thread.state == _WAITS_IN_KERNEL:
        return _waits_for_child(proc, thread)
    return thread.state in _STILL


def _waits_for_child(proc: int, thread: Thread) -> bool:
    """Say whether a thread waits for a child that it forked, and not for a disk."""
    forks = _FORKS.get(os.uname().machine)
    try:
        return forks is None or _read(proc, f"{thread.process}/task/{thread.id}/syscall").split()[0] in forks
    except (OSError, IndexError):
        return False


def _refuse_timers(proc: int, processes: set[int]) -> None:
    """Look for timers that would continue a stopped process.

    Raises:
        StopError: there is one.
    """
    for process in processes:
        with suppress(OSError):  # this kernel has no such file
            timers = _read(proc, f"{process}/timers")
            for alarm in _WAKE_UP:
                if f"signal: {alarm:d}/" in timers:
                    raise StopError(f"a timer of a process in it sends {alarm.name}")


def _answer(answer: dict[str, Any]) -> NoReturn:
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
