"""Where snapshots lie: in memory like what sandboxes write, or with temporary files where memory has no room for it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host_ids import IdRange
from pytest_opensandbox.embedded.runtime.limits import private_bytes
from pytest_opensandbox.embedded.runtime.runtime import SHARED_MEMORY, RuntimeDirectory, remove_tree

# Waits for the end of its input, which is the end of the server, however that comes.
_REMOVE = 'read -r _; chmod -R u+rwX "$1"; rm -rf "$1"'


@dataclass(frozen=True)
class Origin:
    """What a snapshot lends to a sandbox that is made from it.

    Attributes:
        layers: its directories, lowest first.
        ids: the host's ids of the users who own what is in them; None where sandboxes have no users of their own.
    """

    layers: tuple[Path, ...]
    ids: IdRange | None


class Layers:
    """Directories with what snapshots keep; nothing is made or started before the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._directory: RuntimeDirectory | None = None
        self._remover: subprocess.Popen[bytes] | None = None

    def new(self) -> Path:
        """Return a new, empty directory for a layer.

        Raises:
            OSError: there is no room.
        """
        with self._lock:
            if self._directory is None:
                self._directory = RuntimeDirectory(_place())
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


def _place() -> str:
    """Return the directory to make ours in; memory counts if a whole sandbox has room there."""
    if os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        status = os.statvfs(SHARED_MEMORY)
        if status.f_bavail * status.f_frsize >= 2 * private_bytes():  # a snapshot takes half of what is free, at most
            return SHARED_MEMORY
    return tempfile.gettempdir()


def _start_remover(directory: Path) -> subprocess.Popen[bytes]:
    """Start what removes a directory when this process has ended."""
    return subprocess.Popen(  # noqa: S603 - our own line of shell
        ["/bin/sh", "-c", _REMOVE, "sh", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        start_new_session=True,
    )
