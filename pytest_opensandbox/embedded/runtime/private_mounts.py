"""The private mounts of the thread that starts the sandboxes, where the server is root.

They give the users of sandboxes access to files in directories that they cannot enter.
Only this thread and its children see them, so they end with the server, even if it is killed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_PLACES = ("/mnt", "/srv", "/media", "/home", "/var/tmp", "/tmp")  # noqa: S108 - mounted over, for this thread alone
_BYTES = 64 << 20
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MS_NOSUID, _MS_NODEV, _MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 1, 32, 4096, 16384, 1 << 19
_NODES = ("full", "null", "random", "tty", "urandom", "zero")
# A mount that another namespace owns may not lose these: without programs, set-id bits, devices, access times.
_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME


class PrivateMounts:
    """A directory in memory with bind mounts; call everything in the thread that starts the sandboxes.

    Args:
        needed: paths over which it must not be mounted.

    Attributes:
        path: of the directory.

    Raises:
        OSError: this process may not mount.
    """

    def __init__(self, needed: Sequence[str]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._bound: dict[str, Path] = {}
        # Before this call a thread shares its working directory and its mounts with the others.
        self._check(self._libc.unshare(_CLONE_FS | _CLONE_NEWNS))
        self._mount(None, "/", None, _MS_REC | _MS_SLAVE)
        self._protect_devices()  # first: it is needed even if no directory to mount over is found
        place = next(
            (
                place
                for place in _PLACES
                if os.path.realpath(place) == place and os.path.isdir(place) and not _is_above(place, needed)
            ),
            None,
        )
        if place is None:
            raise OSError("there is no directory to mount over")
        self._mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=0755,size={_BYTES}")
        self.path = Path(place)

    def bind(self, source: str) -> Path:
        """Bind a file or directory into this directory, where all users can reach it, and return its path there.

        Raises:
            OSError: it cannot be mounted.
        """
        if source not in self._bound:
            place = self.path / f"source-{len(self._bound)}"
            if os.path.isdir(source):
                place.mkdir()
            else:
                place.touch()
            self._mount(source, str(place), None, _MS_BIND | _MS_REC)
            self._bound[source] = place
        return self._bound[source]

    def _protect_devices(self) -> None:
        """Mount the device nodes that sandboxes see read-only: data can be written, modes cannot be changed."""
        for node in (f"/dev/{name}" for name in _NODES if os.path.exists(f"/dev/{name}")):
            self._mount(node, node, None, _MS_BIND)
            kept = os.statvfs(node).f_flag & _KEPT
            self._mount(None, node, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)

    def _mount(self, source: str | None, place: str, kind: str | None, flags: int, options: str | None = None) -> None:
        texts = [text.encode() if text is not None else None for text in (source, place, kind, options)]
        self._check(self._libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]))

    def _check(self, result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _is_above(place: str, needed: Sequence[str]) -> bool:
    """Say whether a directory is, or contains, one of the paths."""
    return any(f"{os.path.realpath(path)}/".startswith(f"{place}/") for path in needed)
