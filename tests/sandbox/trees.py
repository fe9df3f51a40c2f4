"""The state of a directory tree, to compare it before and after, or with another one."""

import os
import stat
from pathlib import Path


def tree_state(root: Path, *, inodes: bool = True) -> dict[str, tuple[object, ...]]:
    """Return kind, permissions and content of a directory and everything below it; links are not followed.

    Args:
        root: the directory; the state of a missing one is empty.
        inodes: whether inodes are part of the state.
    """
    paths = [root, *sorted(root.rglob("*"))] if root.exists() else []
    return {str(path.relative_to(root)): _state(path, inodes=inodes) for path in paths}


def _state(path: Path, *, inodes: bool) -> tuple[object, ...]:
    status = path.lstat()
    identity = (status.st_ino,) if inodes else ()
    if stat.S_ISLNK(status.st_mode):
        return "link", os.readlink(path), *identity
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return oct(status.st_mode), content, *identity
