"""The namespace around each sandbox, and the directories in it that hold what the sandbox writes.

It ensures that no process of a sandbox outlives the server. A process in a sandbox can trace process 1 of its own
namespace, and cancel that it dies with its parent. Process 1 of the namespace around it is bubblewrap as well, which
still waits for the inner one. It dies with the server, and the kernel then kills everything in both.

What a sandbox writes lies in limited memory: one upper directory for its private directories, and one for each system
directory. The server can read them there. A process in the sandbox reaches them only through its own directories.
The layers of snapshots lie beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host_files import HostFiles
from pytest_opensandbox.embedded.runtime.limits import private_bytes

PRIVATE = "private"
UPPER = "/writes/upper"
SHARED_MEMORY = "/writes/shared-memory"
"""The sandbox's ``/dev/shm``; snapshots do not contain it."""

_NAMESPACES = ("--unshare-pid", "--as-pid-1", "--die-with-parent")
_WRITES = "/writes"
_WORK = "/writes/work"
_LAYERS = "/layers"


def outer_namespace_options(
    host: HostFiles, layer: Path, executable: str, *, is_copy_on_write: bool, restored: Sequence[Path] = ()
) -> Iterator[str]:
    """Yield bubblewrap's options for the namespace around a sandbox; it sees the files of the inner one.

    It sees no more, because bubblewrap fails where mounts come and go, as on the rest of this machine. It sees them
    read-only, because a process in the sandbox can reach files of the namespace around it.

    Args:
        host: the host's files that sandboxes see.
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
    """Yield the agent's files, none inside another one: overlays refuse layers with mounts in them."""
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
    """Return the names of the upper directories: the private one, then one for each system directory."""
    return (PRIVATE, *(directory.lstrip("/") for directory in host.directories if is_copy_on_write))


def writable_options(host: HostFiles, *, is_copy_on_write: bool) -> Iterator[str]:
    """Yield the options that create a sandbox's upper directories in the namespace around it.

    Args:
        host: the host's files that the sandbox sees.
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
    """Return the path of a layer's directory in that namespace."""
    return f"{_LAYERS}/{index}/{name}"


def overlay_options(name: str, place: str, layers: Sequence[Path]) -> Iterator[str]:
    """Yield the options for an overlay that writes to an upper directory; the options of lower layers come before.

    Args:
        name: of the upper directory.
        place: path of the overlay in the sandbox.
        layers: of snapshots, lowest first; those without this directory are left out.
    """
    for index, path in enumerate(layers):
        if (path / name).is_dir():
            yield from ("--overlay-src", layer_path(index, name))
    yield from ("--overlay", f"{UPPER}/{name}", f"{_WORK}/{name}", place)
