"""Directories for temporary files that a later run removes where nothing could, because their owners were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

# The embedded server has directories of its own of this form, and removes abandoned ones of either kind.
_PREFIX = "pytest-opensandbox-"
_LOCK = "lock"
_KINDS = ("setups", "docker")
_STALE_SECONDS = 60


def temporary_directory(kind: str, name: str) -> Path:
    """Return the path of a directory that does not exist yet.

    Args:
        kind: what it is for, ``setups`` or ``docker``.
        name: one that nobody can guess.
    """
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{kind}-{name}"


def hold(path: Path) -> int:
    """Make a directory that only this user can enter, unless it is there, and keep others from removing it.

    Returns:
        A descriptor. The kernel closes it, too, when this process is killed, and with it the directory is abandoned.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        os.makedirs(path, mode=0o700, exist_ok=True)
        lock = _open_lock(path, os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(OSError):
            # Another run may have removed it between these two steps.
            if os.path.samestat(os.fstat(lock), (path / _LOCK).lstat()):
                return lock
        os.close(lock)


def remove_unheld(path: Path) -> None:
    """Remove a directory that nobody holds; nothing happens where somebody does, or where it is gone."""
    with suppress(OSError):
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def remove_abandoned() -> None:
    """Remove what killed runs of this user have left among the temporary files."""
    for kind in _KINDS:
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{kind}-*"):
            with suppress(OSError):
                found = path.lstat()
                is_old = time.time() - found.st_mtime > _STALE_SECONDS
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and is_old:
                    remove_unheld(path)


def _open_lock(path: Path, flags: int = 0) -> int:
    return os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
