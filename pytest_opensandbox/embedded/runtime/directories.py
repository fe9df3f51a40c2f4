"""The directories of a server: its private one, and those with the layers of snapshots."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_opensandbox.embedded.runtime.id_ranges import IdRange
from pytest_opensandbox.embedded.runtime.limits import private_bytes

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only directories of ours are made there

_PREFIX = "pytest-opensandbox-"
_LOCK = "lock"
_STALE_SECONDS = 60
# Waits for the end of its input, which is the end of the server, however that comes.
_REMOVE = 'read -r _; chmod -R u+rwX "$1"; rm -rf "$1"'


class RuntimeDirectory:
    """A directory that only this user can enter; this server removes it, or the next one that starts.

    Args:
        parent: where to create it; None for the user's own runtime directory, or the one for temporary files.

    Attributes:
        path: of the directory.
        layer: the layer over the host's system directories.
    """

    def __init__(self, parent: str | None = None) -> None:
        if parent is None:
            parent = _parent()
            for place in {parent, tempfile.gettempdir(), SHARED_MEMORY}:
                _sweep(place)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.layer = self.path / "layer"

    def remove(self) -> None:
        """Remove the directory; nothing happens when it is gone."""
        remove_tree(self.path)


def remove_tree(path: Path) -> None:
    """Remove a directory of this user's, whatever the modes in it; nothing happens when it is gone.

    Args:
        path: of the directory; other users cannot enter its parent.
    """
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    for directory, below, _ in os.walk(path):
        for name in below:
            entry = os.path.join(directory, name)
            if not os.path.islink(entry):
                os.chmod(entry, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)


def _parent() -> str:
    """Return the user's own runtime directory, or the one for temporary files."""
    candidate = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        if candidate and os.stat(candidate).st_uid == os.geteuid() and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    except OSError:
        pass
    return tempfile.gettempdir()


def _sweep(parent: str) -> None:
    """Remove the directories that killed servers left: those of this user that no process has locked."""
    for path in Path(parent).glob(f"{_PREFIX}*"):
        try:
            status = path.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _STALE_SECONDS and _is_abandoned(path):
                remove_tree(path)
        except OSError:
            continue


def _is_abandoned(path: Path) -> bool:
    """Say whether the server that made this directory has ended."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@dataclass(frozen=True)
class SnapshotSource:
    """The parts of a snapshot that a restored sandbox uses.

    Attributes:
        layers: its directories, lowest first.
        ids: the host's ids of the files' owners; None where sandboxes have no users of their own.
    """

    layers: tuple[Path, ...]
    ids: IdRange | None


class SnapshotLayers:
    """The directories with the files of snapshots; no directory or process exists before the first.

    Args:
        needed_bytes: free bytes of shared memory without which they lie on disk; None for those of a whole sandbox.
    """

    def __init__(self, needed_bytes: int | None = None) -> None:
        self._needed_bytes = needed_bytes
        self._lock = threading.Lock()
        self._directory: RuntimeDirectory | None = None
        self._remover: subprocess.Popen[bytes] | None = None

    def new(self) -> Path:
        """Return a new, empty directory for a layer.

        Raises:
            OSError: the disk is full.
        """
        with self._lock:
            if self._directory is None:
                self._directory = RuntimeDirectory(self._place())
                self._remover = _start_remover(self._directory.path)
        return Path(tempfile.mkdtemp(prefix="layer-", dir=self._directory.path))

    def drop(self, layers: Iterable[Path]) -> None:
        """Remove layers."""
        for layer in layers:
            remove_tree(layer)

    def close(self) -> None:
        """Remove everything."""
        with self._lock:
            if self._directory is not None:
                self._directory.remove()
            if self._remover is not None:
                self._remover.communicate()

    def _place(self) -> str:
        """Return the directory to create ours in."""
        if os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
            status = os.statvfs(SHARED_MEMORY)
            # A snapshot takes half of what is free, at most.
            needed = 2 * private_bytes() if self._needed_bytes is None else self._needed_bytes
            if status.f_bavail * status.f_frsize >= needed:
                return SHARED_MEMORY
        return tempfile.gettempdir()


def _start_remover(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that removes a directory when this process has ended."""
    return subprocess.Popen(  # noqa: S603 - our own line of shell
        ["/bin/sh", "-c", _REMOVE, "sh", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        start_new_session=True,
    )
