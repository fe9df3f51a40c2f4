"""What is said about a file apart from its content: mode, times, attributes, and the marks by which overlays delete."""

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
    """Say whether a file stands for a deletion."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(name: str, directory: int) -> bool:
    """Mark a name as deleted.

    Returns:
        Whether that took an attribute, which the directory must announce.

    Raises:
        RefusedError: there is no way to do it here.
        OSError: the machine refuses.
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
    """Say whether a directory hides what overlays have below it."""
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False


def make_opaque(directory: int) -> None:
    """Have a directory hide what overlays have below it.

    Raises:
        RefusedError: there is no way to do it here.
    """
    _set(directory, _OPAQUE, b"y")


def announce_whiteouts(directory: int) -> None:
    """Tell overlays that deletions in a directory are marked with attributes.

    Raises:
        RefusedError: there is no way to do it here.
    """
    _set(directory, _OPAQUE, b"x")


def copy_attributes(reading: int, writing: int, *, dropped: int = 0) -> None:
    """Copy mode, extended attributes and times, but not what overlays take for their own.

    Args:
        reading: descriptor of a file or directory.
        writing: descriptor of its copy.
        dropped: bits of the mode that the copy is not to have.
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
