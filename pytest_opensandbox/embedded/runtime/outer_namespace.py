"""The namespace around each sandbox, and the directories in it that hold what the sandbox writes.

It sees to it that nothing in a sandbox outlives the server. What runs in a sandbox can trace process 1 of its own
namespace, and have it forget that it must die with its parent. Process 1 of the namespace around it is bubblewrap as
well, still waiting for the inner one. It dies with the server, and the kernel then kills everything in both.

What a sandbox writes goes to memory that is bounded: a tree for its private directories, and one for each system
directory. The server can read them there. What runs inside has no other way to them than through the directories that
are made of them. Layers of snapshots lie beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host_files import HostFiles
from pytest_opensandbox.embedded.runtime.limits import private_bytes

_NAMESPACES = ("--unshare-pid", "--as-pid-1", "--die-with-parent")
PRIVATE = "private"
UPPER = "/writes/upper"
SHARED_MEMORY = "/writes/shared-memory"
"""What a sandbox sees as its ``/dev/shm``; no snapshot keeps it."""

_WRITES = "/writes"
_WORK = "/writes/work"
_LAYERS = "/layers"


def outer_namespace_options(
    host: HostFiles, layer: Path, executable: str, *, is_copy_on_write: bool, restored: Sequence[Path] = ()
) -> Iterator[str]:
    """Yield bubblewrap's options for the namespace around a sandbox: it sees what the inner one is made of.

    It sees no more, because mounts come and go on the rest of this machine, which bubblewrap does not bear. It can
    change nothing of what it sees: what runs inside has ways to the files and directories of the namespace around it.

    Args:
        host: what sandboxes see of this machine.
        layer: the tree that lies over the system directories.
        executable: the inner bubblewrap.
        is_copy_on_write: whether the sandbox may change the system directories.
        restored: layers of a snapshot, lowest first.
    """
    yield from (*_NAMESPACES, "--dir", "/tmp")  # noqa: S108 - where bubblewrap builds the inner one, in memory
    for target, name in host.links:
        yield from ("--symlink", target, name)
    for directory in host.directories:
        yield from ("--ro-bind", directory, directory)
    yield from ("--dev-bind", "/dev", "/dev")
    for source in dict.fromkeys([*_programs(executable), str(layer), *_sources(host)]):
        if not source.startswith(tuple(f"{directory}/" for directory in host.directories)):
            yield from ("--ro-bind", source, source)
    yield from ("--ro-bind-try", "/var/lib/dpkg", "/var/lib/dpkg")
    yield from writable_options(host, is_copy_on_write=is_copy_on_write)
    yield from layer_options(restored)


def _sources(host: HostFiles) -> Iterator[str]:
    """Yield what the agent is made of, and nothing in what was yielded: overlays refuse layers with mounts in them."""
    if host.agent_files is None:
        yield from (source for source, _ in host.interpreter.binds)
        return
    library = host.agent_files.library
    yield from (str(host.agent_files.whiteouts), library)
    yield from (source for source, _ in host.interpreter.binds if not source.startswith(f"{library}/"))


def _programs(executable: str) -> Iterator[str]:
    """Yield a bubblewrap's directory, and what a wheel keeps beside its package: libraries."""
    path = Path(os.path.abspath(executable))
    yield str(path.parent)
    package = path.parents[1]
    if (libraries := package.parent / f"{package.name}.libs").is_dir():
        yield str(libraries)


def upper_directories(host: HostFiles, *, is_copy_on_write: bool) -> tuple[str, ...]:
    """Return the names of the trees: that of the private directories, then one for each system directory."""
    return (PRIVATE, *(directory.lstrip("/") for directory in host.directories if is_copy_on_write))


def writable_options(host: HostFiles, *, is_copy_on_write: bool) -> Iterator[str]:
    """Yield the options that make room for a sandbox's trees in the namespace around it.

    Args:
        host: what the sandbox sees of this machine.
        is_copy_on_write: whether it may change the system directories.
    """
    yield from ("--size", str(private_bytes()), "--tmpfs", _WRITES, "--perms", "1777", "--dir", SHARED_MEMORY)
    for name in upper_directories(host, is_copy_on_write=is_copy_on_write):
        yield from ("--dir", f"{UPPER}/{name}", "--dir", f"{_WORK}/{name}")


def layer_options(layers: Sequence[Path]) -> Iterator[str]:
    """Yield the options that show layers in the namespace around a sandbox, read-only, lowest first."""
    for index, path in enumerate(layers):
        yield from ("--ro-bind", str(path), f"{_LAYERS}/{index}")


def layer_path(index: int, name: str) -> str:
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
            yield from ("--overlay-src", layer_path(index, name))
    yield from ("--overlay", f"{UPPER}/{name}", f"{_WORK}/{name}", place)
