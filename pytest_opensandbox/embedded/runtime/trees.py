"""Where what a sandbox writes goes: a tree for its private directories, and one for each system directory.

They lie in memory that is bounded, in the namespace around the sandbox: this server can read them there, and what runs
inside has no other way to them than through the directories that are made of them. Layers of snapshots lie beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host import Host
from pytest_opensandbox.embedded.runtime.limits import private_bytes

PRIVATE = "private"
UPPER = "/writes/upper"
SHARED_MEMORY = "/writes/shared-memory"
"""What a sandbox sees as its ``/dev/shm``; no snapshot keeps it."""

_WRITES = "/writes"
_WORK = "/writes/work"
_LAYERS = "/layers"


def tree_names(host: Host, *, is_copy_on_write: bool) -> tuple[str, ...]:
    """Return the names of the trees: that of the private directories, then one for each system directory."""
    return (PRIVATE, *(directory.lstrip("/") for directory in host.directories if is_copy_on_write))


def writable_options(host: Host, *, is_copy_on_write: bool) -> Iterator[str]:
    """Yield the options that make room for a sandbox's trees in the namespace around it.

    Args:
        host: what the sandbox sees of this machine.
        is_copy_on_write: whether it may change the system directories.
    """
    yield from ("--size", str(private_bytes()), "--tmpfs", _WRITES, "--perms", "1777", "--dir", SHARED_MEMORY)
    for name in tree_names(host, is_copy_on_write=is_copy_on_write):
        yield from ("--dir", f"{UPPER}/{name}", "--dir", f"{_WORK}/{name}")


def layer_options(layers: Sequence[Path]) -> Iterator[str]:
    """Yield the options that show layers in the namespace around a sandbox, read-only, lowest first."""
    for index, path in enumerate(layers):
        yield from ("--ro-bind", str(path), f"{_LAYERS}/{index}")


def layer_place(index: int, name: str) -> str:
    """Return where a layer's tree is in that namespace."""
    return f"{_LAYERS}/{index}/{name}"


def overlay_options(name: str, place: str, layers: Sequence[Path]) -> Iterator[str]:
    """Yield the options for an overlay whose writes go to a tree; what lies lower still comes before them.

    Args:
        name: of the tree.
        place: where the overlay appears in the sandbox.
        layers: of snapshots, lowest first; those without such a tree are left out.
    """
    for index, path in enumerate(layers):
        if (path / name).is_dir():
            yield from ("--overlay-src", layer_place(index, name))
    yield from ("--overlay", f"{UPPER}/{name}", f"{_WORK}/{name}", place)
