"""Attributes of files: mode, times, extended attributes, and the whiteouts by which overlays delete."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress

from .errors import RefusedError

_OPAQUE, _WHITEOUT = "user.overlay.opaque", "user.overlay.whiteout"
_ACCESS_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
_KNOWS_WHITEOUTS_AS_ATTRIBUTES = (6, 7)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    """Say whether a file is an overlay's whiteout."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(name: str, directory: int) -> bool:
    """Create a whiteout.

    Returns:
        Whether the whiteout is an attribute, which the directory must announce.

    Raises:
        RefusedError: the file system cannot hold it.
        OSError: the system refuses.
    """
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
    except PermissionError:  # the directory lies on an overlay itself, as in a container
        release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
        if release < _KNOWS_WHITEOUTS_AS_ATTRIBUTES:
            raise RefusedError("deletions cannot be kept in the directory for temporary files (TMPDIR)") from None
        mark = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            _set(mark, _WHITEOUT, b"y")
        finally:
            os.close(mark)
        return True
    return False


def is_opaque(directory: int) -> bool:
    """Say whether a directory hides the lower layers."""
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False


def make_opaque(directory: int) -> None:
    """Make a directory hide the lower layers.

    Raises:
        RefusedError: the file system cannot hold it.
    """
    _set(directory, _OPAQUE, b"y")


def announce_whiteouts(directory: int) -> None:
    """Mark a directory as one whose whiteouts are attributes.

    Raises:
        RefusedError: the file system cannot hold it.
    """
    _set(directory, _OPAQUE, b"x")


def copy_attributes(reading: int, writing: int, *, dropped: int = 0) -> None:
    """Copy mode, extended attributes and times, but not the attributes of overlays.

    Args:
        reading: descriptor of a file or directory.
        writing: descriptor of its copy.
        dropped: bits of the mode to leave out.
    """
    status = os.fstat(reading)
    os.fchmod(writing, stat.S_IMODE(status.st_mode) & ~dropped)
    with suppress(OSError):  # a file system without attributes, on either side
        for name in os.listxattr(reading):
            if name in _ACCESS_LISTS or (name.startswith("user.") and not name.startswith("user.overlay.")):
                os.setxattr(writing, name, os.getxattr(reading, name))
    os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))


def _set(descriptor: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(descriptor, name, value)
    except OSError:
        raise RefusedError(
            "replaced or deleted directories cannot be kept in the directory for temporary files (TMPDIR):"
            " its file system has no extended attributes"
        ) from None
