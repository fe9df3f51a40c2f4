"""Limits of memory, processes and open files, of a sandbox and of the server."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAX_PROCESSES = 4096

_MIN_PRIVATE_BYTES = 256 << 20
_COUNTS_BY_NAMESPACE = (5, 15)
# The kernel then kills this process first when memory runs short: before pytest, the server and all others.
_OOM_VICTIM = '{ echo 1000 > /proc/self/oom_score_adj; } 2> /dev/null; exec "$@"'
_MAX_FILES = 1 << 20
# By the type of the file system: the files that hold a limit. Above memory.high the kernel slows processes down.
_LIMITS = {"cgroup": ("memory.limit_in_bytes",), "cgroup2": ("memory.max", "memory.high")}
_OCTAL = re.compile(r"\\([0-7]{3})")


def private_bytes() -> int:
    """Return how much one sandbox may write: a quarter of the memory, or 256 MiB if that is at most half of it."""
    usable = usable_bytes()
    return max(usable // 4, min(_MIN_PRIVATE_BYTES, usable // 2))


def oom_victim_prefix() -> list[str]:
    """Return a prefix for a command that the kernel is to kill first, with its children, when memory runs short."""
    return ["/bin/sh", "-c", _OOM_VICTIM, "sh"]


def max_processes() -> int | None:
    """Return how many processes and threads one sandbox may have, None where the kernel cannot count them.

    Older kernels also count those that the user has outside.
    """
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    return MAX_PROCESSES if release >= _COUNTS_BY_NAMESPACE else None


def raise_file_limit() -> int:
    """Raise this process's limit of open files to the hard limit, and return it.

    Each connection through the server takes two, and each sandbox about ten.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_FILES if soft == resource.RLIM_INFINITY else min(soft, _MAX_FILES)


def usable_bytes(proc: Path = Path("/proc")) -> int:
    """Return how much memory this process and its children may use together.

    Args:
        proc: directory of the process file system.

    Source: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst of Linux.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_group_limits(proc / "self")])


def out_of_memory_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory since it started, 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _group_limits(process: Path) -> Iterator[int]:
    """Yield the limits of the groups that a process is in, and of those around them."""
    for kind, directory, top in _groups(process):
        while True:
            for name in _LIMITS[kind]:
                with suppress(OSError, ValueError):  # no such limit, or "max"
                    yield int((directory / name).read_text())
            if directory == top:
                break
            directory = directory.parent


def _groups(process: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield the groups that count a process's memory: type of the file system, directory, where that is mounted."""
    paths = _group_paths(process)
    for kind, root, place in _mounts(process):
        path = paths.get(kind)
        if path is None:
            continue
        # In a container the path may begin outside of what is mounted there: then the mount is the container's group.
        below = os.path.relpath(path, root)
        yield kind, place if below.startswith("..") else place / below, place


def _group_paths(process: Path) -> dict[str, str]:
    """Return the paths of the groups that count a process's memory, by the type of their file system."""
    paths = {}
    with suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                paths["cgroup2"] = path
            elif "memory" in controllers.split(","):
                paths["cgroup"] = path
    return paths


def _mounts(process: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield the mounted trees of groups that may count memory: type, the tree's root in its hierarchy, place."""
    with suppress(OSError):
        for line in (process / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            _, _, _, root, place, *_ = before.split(" ")
            kind, _, options = after.split(" ")
            if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
                yield kind, _unescaped(root), Path(_unescaped(place))


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
