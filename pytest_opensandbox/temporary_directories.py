"""Temporary directories that a later run removes if the process that uses them was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from pytest_opensandbox.clock import wall_time

# The embedded server uses this form of names, too, and removes abandoned directories of both programs.
_PREFIX = "pytest-opensandbox-"
_LOCK = "lock"
_KINDS = ("setups", "docker")
_STALE_SECONDS = 60


def temporary_directory(kind: str, name: str) -> Path:
    """Return the path of a directory that does not exist yet.

    Args:
        kind: what it is for, ``setups`` or ``docker``.
        name: a random name, not guessable.
    """
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{kind}-{name}"


def hold(path: Path) -> int:
    """Make a directory for this user only, unless it exists, and lock it against removal.

    Returns:
        The descriptor of the lock. When this process is killed, the kernel closes it; then others may remove the
        directory.

    Raises:
        OSError: the directory cannot be made.
    """
    while True:
        os.makedirs(path, mode=0o700, exist_ok=True)
        lock = _open_lock(path, os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(OSError):
            # Another run may have removed the directory between these two steps.
            if os.path.samestat(os.fstat(lock), (path / _LOCK).lstat()):
                return lock
        os.close(lock)


def remove_unheld(path: Path) -> None:
    """Remove a directory that no process holds; do nothing where one holds it, or where it is gone."""
    with suppress(OSError):
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def remove_abandoned() -> None:
    """Remove the directories of killed runs of this user."""
    for kind in _KINDS:
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{kind}-*"):
            with suppress(OSError):
                found = path.lstat()
                is_old = wall_time() - found.st_mtime > _STALE_SECONDS
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and is_old:
                    remove_unheld(path)


def _open_lock(path: Path, flags: int = 0) -> int:
    return os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
