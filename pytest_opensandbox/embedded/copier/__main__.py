"""The command of the copier: ``python -m pytest_opensandbox.embedded.copier ORDER [PROGRAM ARGUMENT...]``.

The order is JSON, or ``-`` where it comes from standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

from .errors import RefusedError
from .tree import DIRECTORY, Budget, Tree, opened

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_MAX_DESCRIPTORS = 4096


def main() -> None:
    """Copy, and then execute the named program, if there is one."""
    order = sys.stdin.read() if sys.argv[1] == "-" else sys.argv[1]
    try:
        copy(json.loads(order))
    except (OSError, RefusedError, RecursionError, MemoryError) as error:
        _fail(error)
    if program := sys.argv[2:]:
        ctypes.CDLL(None).prctl(
            _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0
        )  # the program gets its rights from its own namespace
        os.execve(program[0], program, {})  # noqa: S606 - the order names it


def copy(order: dict[str, Any]) -> None:
    """Copy trees from one directory to another.

    Args:
        order: ``source`` and ``target``, directories by descriptor or path; ``trees``, by name, each with ``fixed`` and
            ``is_overlay``; ``entries`` and ``bytes``, how much there may be; ``namespace``, descriptor of the user
            namespace to enter, if any, and ``is_root``, whether to be its root there, and keep the owners of what is
            copied; ``parent``, id of the process with which this one is to die, if any.

    Raises:
        RefusedError: the files cannot be kept.
        OSError: the system refuses.
    """
    is_root = bool(order.get("is_root"))
    _confine(order.get("namespace"), order.get("parent"), is_root=is_root)
    budget = Budget(order["entries"], order["bytes"])
    source, target = (_directory(order[end]) for end in ("source", "target"))
    for name, how in order["trees"].items():
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=target)
        with opened(name, DIRECTORY, source) as reading, opened(name, DIRECTORY, target) as writing:
            Tree(reading, writing, budget=budget, keeps_owners=is_root, **how).copy()


def _confine(namespace: int | None, parent: int | None, *, is_root: bool) -> None:
    """Give up rights, and set that this process dies with its parent."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    if namespace is not None and libc.setns(namespace, _CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), f"the sandbox's namespace: {os.strerror(ctypes.get_errno())}")
    if namespace is not None and is_root:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    if parent is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # not before: the kernel forgets it when rights change
        if os.getppid() != parent:
            sys.exit(1)


def _directory(place: int | str) -> int:
    return place if isinstance(place, int) else os.open(place, DIRECTORY)


def _fail(error: Exception) -> NoReturn:
    """Write the reason to standard error, and exit."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    sys.stderr.write(reason or type(error).__name__)
    sys.exit(1)


if __name__ == "__main__":
    main()
