"""The server's private directory: sockets pass through it, and a layer that lies over the host's system directories."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HOSTNAME = "sandbox"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only directories of ours are made there

_PREFIX = "pytest-opensandbox-"
_LOCK = "lock"
_STALE_SECONDS = 60
_FILES = {
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
}
# How deep directories are mirrored: all of /etc, and of /usr the places where people put files.
_MIRRORED = (("/etc", 12), ("/usr", 2), ("/usr/local", 5), ("/usr/lib/python3", 2), ("/opt", 1))


class RuntimeDirectory:
    """A directory that only this user can enter; it goes with the server, or with the next one that starts.

    Args:
        parent: where to make it; None for the user's own runtime directory, or the one for temporary files.

    Attributes:
        path: where it is.
        layer: a tree that is stacked over the host's system directories.
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

    def build_layer(self) -> None:
        """Fill the layer: names of the sandbox's own, and for an ordinary user the directories that they may change.

        Files of the host's root belong to nobody inside a sandbox of an ordinary user. A directory takes its owner from
        the topmost layer, so a mirror of the directories makes them the user's, who may create and replace in them.
        """
        for directory in ("etc", "usr", "opt"):
            (self.layer / directory).mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            for top, depth in _MIRRORED:
                for directory in _directories(top, depth):
                    (self.layer / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, text in _FILES.items():
            (self.layer / name).write_text(text)

    def remove(self) -> None:
        """Remove the directory; nothing happens when it is gone."""
        remove_tree(self.path)


def remove_tree(path: Path) -> None:
    """Remove a directory of this user's, whatever the modes in it; nothing happens when it is gone.

    Args:
        path: of the directory; nobody else can enter what it is in.
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


def layer_files() -> list[str]:
    """Return the absolute names of the files that the layer puts in place of the host's."""
    return [f"/{name}" for name in _FILES]


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
    """Remove what servers left that were killed: directories of this user whose lock nobody holds."""
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


def _directories(top: str, depth: int) -> Iterator[str]:
    """Yield a directory and those below it that this user can enter, ``depth`` levels of them."""
    if not os.path.isdir(top) or os.path.islink(top) or not os.access(top, os.R_OK | os.X_OK):
        return
    yield top
    if depth == 0:
        return
    with os.scandir(top) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in below:
        yield from _directories(path, depth - 1)
