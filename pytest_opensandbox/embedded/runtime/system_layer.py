"""The layer over the host's system directories: files of the sandbox's own, and whiteouts over what is private."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

HOSTNAME = "sandbox"

_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_FILES = {
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
}
# How deep directories are mirrored: all of /etc, and the parts of /usr to which administrators add files.
_SEARCHED = "/etc"
_MIRRORED = (("/etc", 12), ("/usr", 2), ("/usr/local", 5), ("/usr/lib/python3", 2), ("/opt", 1))


def build_layer(layer: Path, *, owner: int | None = None) -> None:
    """Fill a layer with the sandbox's own files, and with the system directories that it may change.

    Files of the host's root belong to the user "nobody" in a sandbox. A directory takes its owner from the topmost
    layer. So the layer has the same directories, owned by the sandbox's root, who may then create files in them.

    Args:
        layer: a directory, which is created.
        owner: user and group of everything in it; None for this process's own.
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
    for whiteout in hidden:
        write_whiteout(whiteout)
    for name, text in _FILES.items():
        (layer / name).write_text(text)
        (layer / name).chmod(_FILE_MODE)
        made[f"{layer}/{name}"] = None
    if owner is not None:
        for made_path in made:
            os.chown(made_path, owner, owner)


def layer_files() -> list[str]:
    """Return the absolute paths of the files that the layer replaces."""
    return [f"/{name}" for name in _FILES]


def write_whiteout(path: str | Path) -> None:
    """Create a whiteout in a layer, which hides the name in lower layers.

    Args:
        path: of the whiteout; its directory exists.
    """
    try:
        os.mknod(path, stat.S_IFCHR, 0)
    except OSError:  # the layer lies on an overlay, or the kernel is older than 5.8: an empty file hides it as well
        Path(path).touch(mode=0)


def is_private(status: os.stat_result) -> bool:
    """Say whether some users of the machine may not read a file or directory."""
    if stat.S_ISLNK(status.st_mode):
        return False
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    return status.st_mode & needed != needed


def _directories(top: str, depth: int) -> Iterator[tuple[str, bool]]:
    """Yield a directory and those below it, down to ``depth`` levels, and the private entries in them.

    Yields:
        Path, and whether it is private; the contents of private directories are left out.
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
