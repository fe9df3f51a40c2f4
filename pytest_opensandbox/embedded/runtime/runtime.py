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
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_FILES = {
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
}
# How deep directories are mirrored: all of /etc, and of /usr the places where people put files.
_SEARCHED = "/etc"
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
        """Fill the layer, for sandboxes of this user."""
        build_layer(self.layer)

    def remove(self) -> None:
        """Remove the directory; nothing happens when it is gone."""
        remove_tree(self.path)


def build_layer(layer: Path, *, owner: int | None = None) -> None:
    """Fill a layer: names of the sandbox's own, and the system directories that it may change.

    Files of the host's root belong to nobody inside a sandbox. A directory takes its owner from the topmost layer,
    so a mirror of the directories makes them those of the sandbox's root, who may create and replace in them.

    Args:
        layer: a directory, which is made.
        owner: user and group to whom everything is given; None for this process's own.
    """
    made = dict.fromkeys([f"{layer}", *(f"{layer}/{name}" for name in ("etc", "usr", "opt"))])
    hidden: dict[str, None] = {}
    if owner is not None or os.geteuid() != 0:
        for top, depth in _MIRRORED:
            for path, private in _directories(top, depth):
                (hidden if private else made)[f"{layer}{path}"] = None
    for directory in made:
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, _DIRECTORY_MODE)
    for mark in hidden:
        hide(mark)
    for name, text in _FILES.items():
        (layer / name).write_text(text)
        (layer / name).chmod(_FILE_MODE)
        made[f"{layer}/{name}"] = None
    if owner is not None:
        for made_path in made:
            os.chown(made_path, owner, owner)


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


def hide(path: str | Path) -> None:
    """Mark a name in a layer as deleted, so that overlays show nothing of what lies below.

    Args:
        path: of the mark; its directory is there.
    """
    try:
        os.mknod(path, stat.S_IFCHR, 0)
    except OSError:  # the layer lies on an overlay itself, or the kernel is older than 5.8: an empty file hides as much
        Path(path).touch(mode=0)


def is_private(status: os.stat_result) -> bool:
    """Say whether a file or directory is not for everybody on its machine to read."""
    if stat.S_ISLNK(status.st_mode):
        return False
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    return status.st_mode & needed != needed


def _directories(top: str, depth: int) -> Iterator[tuple[str, bool]]:
    """Yield a directory and those below it, ``depth`` levels of them, and what is private in them.

    Yields:
        Path, and whether it is private; what lies in a private directory is left out.
    """
    if not os.path.isdir(top) or os.path.islink(top) or is_private(os.stat(top)):
        return
    yield top, False
    if depth == 0:
        return
    with os.scandir(top) as entries:
        below = list(entries)
    for entry in below:
        is_directory = entry.is_dir(follow_symlinks=False)
        if not is_directory and not top.startswith(_SEARCHED):
            continue
        try:
            private = is_private(entry.stat(follow_symlinks=False))
        except OSError:  # removed in the meantime
            continue
        if private:
            yield entry.path, True
        elif is_directory:
            yield from _directories(entry.path, depth - 1)
