"""The files of snapshots: the copy of what a sandbox wrote, and sandboxes that are restored from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pytest_opensandbox.embedded.runtime.bubblewrap import Bubblewrap, mount_paths, with_layers
from pytest_opensandbox.embedded.runtime.host_files import HostFiles, Interpreter
from pytest_opensandbox.embedded.runtime.id_ranges import IdRange
from pytest_opensandbox.embedded.runtime.limits import private_bytes
from pytest_opensandbox.embedded.runtime.outer_namespace import PRIVATE, UPPER, layer_path, upper_directories

SECONDS = 120

_REASON_CHARACTERS = 500
MAX_ENTRIES = 500_000
_RIGHTS = ("CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID")

COPIER = Path(__file__).parents[1] / "copier"
# At the end of the path: modules beside the copier have the names of other modules.
BOOT = f"import sys; sys.path.append({str(COPIER.parent)!r}); from copier.__main__ import main; main()"


class CaptureError(Exception):
    """The copy failed; the text gives the reason."""


def capture(
    host: HostFiles,
    outer_process: int,
    target: Path,
    *,
    is_copy_on_write: bool,
    is_restored: bool,
    ids: IdRange | None,
    on_start: Callable[[subprocess.Popen[bytes]], object],
) -> None:
    """Copy what a sandbox wrote.

    Args:
        host: the host's files that it sees.
        outer_process: the process around it, as a descriptor in ``/proc``.
        target: an empty directory.
        is_copy_on_write: whether it could change the system directories.
        is_restored: whether it was restored from a snapshot.
        ids: the host's ids of its users; None where it has no users of its own.
        on_start: called with the copier's process, so that it can be ended early.

    Raises:
        CaptureError: a limit is exceeded, the disk is full, or the sandbox has ended.
        TimeoutError: after ``SECONDS``.
    """
    with ExitStack() as stack:
        try:
            ends = [
                _open(stack, f"root{UPPER}", os.O_DIRECTORY, outer_process),
                _open(stack, target, os.O_DIRECTORY),
                _open(stack, "ns/user", 0, outer_process),
            ]
        except OSError as error:
            raise CaptureError(f"The sandbox cannot be read: {error.strerror}.") from error
        if ids:
            os.chown(target, ids.first, ids.first)
        trees = upper_directories(host, is_copy_on_write=is_copy_on_write)
        order = dict(zip(("source", "target", "namespace"), ends, strict=True)) | {
            "trees": {
                name: {"fixed": list(_fixed(host, name)), "is_overlay": name != PRIVATE or is_restored}
                for name in trees
            },
            "entries": MAX_ENTRIES,
            "bytes": min(private_bytes(), _room(target)),
            "parent": os.getpid(),
            "is_root": ids is not None,
        }
        _run(json.dumps(order), ends, on_start)
    _drop_empty(target)


def _open(stack: ExitStack, path: str | Path, flags: int, directory: int | None = None) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=directory)
    stack.callback(os.close, descriptor)
    return descriptor


def _fixed(host: HostFiles, tree: str) -> Iterator[str]:
    """Yield the paths in a tree at which every sandbox has a mount or a link."""
    start = "/" if tree == PRIVATE else f"/{tree}/"
    for path in mount_paths(host):
        if path.startswith(start):
            yield path[len(start) :]


def _room(target: Path) -> int:
    """Return how many bytes a snapshot may take: half of what is free."""
    status = os.statvfs(target)
    return status.f_bavail * status.f_frsize // 2


def _run(order: str, descriptors: list[int], on_start: Callable[[subprocess.Popen[bytes]], object]) -> None:
    process = subprocess.Popen(  # noqa: S603 - our own program, the order holds nothing of the sandbox's
        [sys.executable, "-I", "-S", "-c", BOOT, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
    )
    on_start(process)
    try:
        _, output = process.communicate(order.encode(), timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise TimeoutError(f"Snapshot creation timed out after {SECONDS} seconds") from error
    if process.returncode:
        reason = output.decode(errors="replace")[-_REASON_CHARACTERS:] or "the server ends"
        raise CaptureError(f"The sandbox's files cannot be kept: {reason}.")


def _drop_empty(target: Path) -> None:
    """Remove empty trees of system directories: an overlay with fewer layers is faster."""
    for tree in target.iterdir():
        if tree.name != PRIVATE and not any(tree.iterdir()):
            tree.rmdir()


def with_restored_files(bubblewrap: Bubblewrap, host: HostFiles, layer: Path, layers: Sequence[Path]) -> Bubblewrap:
    """Return a bubblewrap whose sandboxes are restored from a snapshot.

    Args:
        bubblewrap: the server's, with outer namespaces.
        host: the host's files that its sandboxes see.
        layer: the tree that lies over the system directories.
        layers: of the snapshot, lowest first.
    """
    laid = with_layers(bubblewrap, host, layer, layers)
    if laid.is_copy_on_write:
        return laid
    # The copier must read what the sandbox made unreadable, and set owners.
    rights = [part for name in _RIGHTS for part in ("--cap-add", name)]
    own = ("--ro-bind", host.copier, str(COPIER), *rights, *_library_path(host.interpreter))
    return replace(laid, outer_options=(*laid.outer_options, *own), preparation=tuple(_copying(host.interpreter)))


def _copying(interpreter: Interpreter) -> Iterator[str]:
    """Yield the command that copies the private directories, and then executes the rest of the command line."""
    order = {
        "source": layer_path(0, ""),
        "target": UPPER,
        "trees": {PRIVATE: {"fixed": [], "is_overlay": False}},
        "entries": MAX_ENTRIES,
        "bytes": private_bytes(),
        "is_root": True,
    }
    yield from (_outside(interpreter, interpreter.executable), "-I", "-S", "-c", BOOT, json.dumps(order))


def _library_path(interpreter: Interpreter) -> Iterator[str]:
    if interpreter.library_path:
        yield from ("--setenv", "LD_LIBRARY_PATH", _outside(interpreter, interpreter.library_path))


def _outside(interpreter: Interpreter, inside: str) -> str:
    """Return the path on the host, and in the outer namespace, of a path of the sandbox's Python."""
    for source, place in interpreter.binds:
        if inside.startswith(f"{place}/"):
            return source + inside[len(place) :]
    return inside
