"""Unused ranges of this machine's user and group ids, each for one sandbox at a time.

The region is one that systemd's table of ids calls unused and that lies above what SSSD gives to users of a directory.
Source: docs/UIDS-GIDS.md of systemd, and ldap_idmap_range_max in sssd-ldap(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FIRST, _END, _COUNT = 0x78000000, 0x7FFE0000, 65536
# Where the server's own namespace has no such ids: one of these for each sandbox.
_SMALL_FIRST, _SMALL_END = 30_000, 60_000
_ACCOUNTS = (("/etc/passwd", 2), ("/etc/group", 2))
_DELEGATED = ("/etc/subuid", "/etc/subgid")
_LOCK = "pytest-opensandbox-ids.lock"


@dataclass(frozen=True)
class IdRange:
    """Ids of one sandbox, or of one snapshot and the sandboxes that are restored from it.

    Attributes:
        first: the host's id of user 0 and group 0 in the sandbox.
        count: number of ids.
    """

    first: int
    count: int


class IdRanges:
    """All ranges; servers that run at the same time share none if they see the same ``/run``."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._users: dict[IdRange, int] = {}
        self._file = _open_lock_file()
        self._unlocked = _free_ranges()
        self._has_any = False

    def acquire(self, ids: IdRange | None = None) -> IdRange:
        """Return a range for one more user.

        Args:
            ids: a range in use, to count a further user of it; None for an unused one.

        Raises:
            OSError: there is none.
        """
        with self._mutex:
            taken = ids or next((known for known, users in self._users.items() if not users), None) or self._find()
            self._users[taken] = self._users.get(taken, 0) + 1
            return taken

    def release(self, ids: IdRange) -> None:
        """Count one user of a range less; without users another sandbox may get it."""
        with self._mutex:
            self._users[ids] -= 1

    def _find(self) -> IdRange:
        """Return a range that no server has, and lock it for as long as this server runs."""
        for ids in self._unlocked:
            self._has_any = True
            if self._file is None or _lock_byte(self._file, ids.first):
                return ids
        if self._has_any:
            raise OSError(errno.EAGAIN, "there are no free user ids on this machine for a further sandbox")
        raise OSError(errno.EPERM, "this user namespace has no user ids for sandboxes")


def _free_ranges() -> Iterator[IdRange]:
    """Yield the ranges that exist in this process's namespace and contain no account.

    The first one is random, so that servers that cannot see each other's locks seldom choose the same.
    """
    own = [_extents("/proc/self/uid_map"), _extents("/proc/self/gid_map")]
    taken = list(_taken())
    for first, end, count in ((_FIRST, _END, _COUNT), (_SMALL_FIRST, _SMALL_END, 1)):
        starts = range(first, end, count)
        middle, is_any = secrets.randbelow(len(starts)), False
        for start in (*starts[middle:], *starts[:middle]):
            is_mapped = all(any(low <= start and start + count <= high for low, high in kind) for kind in own)
            if is_mapped and not any(low < start + count and start < high for low, high in taken):
                is_any = True
                yield IdRange(start, count)
        if is_any:
            return


def _extents(path: str) -> list[tuple[int, int]]:
    """Return first id and end of each line of a map."""
    lines = [list(map(int, line.split())) for line in Path(path).read_text().splitlines()]
    return [(inside, inside + count) for inside, _, count in lines]


def _taken() -> Iterator[tuple[int, int]]:
    """Yield first id and end of the ranges that belong to users, groups and containers of this machine."""
    for path, field in _ACCOUNTS:
        for parts in _fields(path):
            with suppress(ValueError, IndexError):
                yield int(parts[field]), int(parts[field]) + 1
    for path in _DELEGATED:
        for parts in _fields(path):
            with suppress(ValueError, IndexError):
                yield int(parts[1]), int(parts[1]) + int(parts[2])


def _fields(path: str) -> list[list[str]]:
    try:
        return [line.split(":") for line in Path(path).read_text(errors="replace").splitlines()]
    except OSError:
        return []


def _open_lock_file() -> int | None:
    """Return a descriptor of the file in which servers lock their ranges, None if it belongs to another user."""
    for directory in ("/run", tempfile.gettempdir()):
        with suppress(OSError):
            file = os.open(f"{directory}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if os.fstat(file).st_uid == os.geteuid():
                return file
            os.close(file)
    return None


def _lock_byte(file: int, place: int) -> bool:
    """Lock one byte of a file; say whether no other process has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True
