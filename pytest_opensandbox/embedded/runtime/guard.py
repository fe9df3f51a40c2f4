"""A namespace around each sandbox, out of sight of what runs in it, so that nothing in it outlives the server.

What runs in a sandbox can trace process 1 of its own namespace, and have it forget that it must die with its parent.
Process 1 of the namespace around it is bubblewrap as well, still waiting for the inner one. It dies with the server,
and the kernel then kills everything in both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host import Host
from pytest_opensandbox.embedded.runtime.trees import layer_options, writable_options

_NAMESPACES = ("--unshare-pid", "--as-pid-1", "--die-with-parent")


def guard_options(
    host: Host, layer: Path, executable: str, *, is_copy_on_write: bool, restored: Sequence[Path] = ()
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


def _sources(host: Host) -> Iterator[str]:
    """Yield what the agent is made of, and nothing in what was yielded: overlays refuse layers with mounts in them."""
    if host.agent_files is None:
        yield from (source for source, _ in host.interpreter.binds)
        return
    library = host.agent_files.library
    yield from (str(host.agent_files.marks), library)
    yield from (source for source, _ in host.interpreter.binds if not source.startswith(f"{library}/"))


def _programs(executable: str) -> Iterator[str]:
    """Yield a bubblewrap's directory, and what a wheel keeps beside its package: libraries."""
    path = Path(os.path.abspath(executable))
    yield str(path.parent)
    package = path.parents[1]
    if (libraries := package.parent / f"{package.name}.libs").is_dir():
        yield str(libraries)
