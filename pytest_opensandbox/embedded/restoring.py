"""A sandbox that begins with what a snapshot kept: overlays on its layers, or a copy where overlays are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_opensandbox.embedded.bubblewrap import Bubblewrap, sandbox_options
from pytest_opensandbox.embedded.guard import guard_options
from pytest_opensandbox.embedded.host import Host, Interpreter
from pytest_opensandbox.embedded.limits import private_bytes
from pytest_opensandbox.embedded.trees import PRIVATE, UPPER, layer_place

MOST_ENTRIES = 500_000

COPIER = Path(__file__).with_name("copier")
# At the end: the rooms beside it are called like modules of others.
BOOT = f"import sys; sys.path.append({str(COPIER.parent)!r}); from copier.__main__ import main; main()"


def restoring(bubblewrap: Bubblewrap, host: Host, layer: Path, layers: Sequence[Path]) -> Bubblewrap:
    """Return a bubblewrap whose sandboxes begin with a snapshot, each for itself.

    Args:
        bubblewrap: the server's, with a namespace around each sandbox.
        host: what its sandboxes see of this machine.
        layer: the tree that lies over the system directories.
        layers: of the snapshot, lowest first.
    """
    how = bubblewrap.is_copy_on_write
    options = sandbox_options(host, layer, is_copy_on_write=how, is_guarded=True, restored=layers)
    guard = guard_options(host, layer, bubblewrap.executable, is_copy_on_write=how, restored=layers)
    if how:
        return replace(bubblewrap, options=tuple(options), guard=tuple(guard))
    # The copy must be able to read what the sandbox made unreadable.
    own = ("--ro-bind", str(COPIER), str(COPIER), "--cap-add", "CAP_DAC_OVERRIDE", *_library_path(host.interpreter))
    return replace(
        bubblewrap, options=tuple(options), guard=(*guard, *own), preparation=tuple(_copying(host.interpreter))
    )


def _copying(interpreter: Interpreter) -> Iterator[str]:
    """Yield the command that copies the private directories, and then becomes what follows."""
    order = {
        "source": layer_place(0, ""),
        "target": UPPER,
        "trees": {PRIVATE: {"fixed": [], "is_overlay": False}},
        "entries": MOST_ENTRIES,
        "bytes": private_bytes(),
    }
    yield from (_outside(interpreter, interpreter.executable), "-I", "-S", "-c", BOOT, json.dumps(order))


def _library_path(interpreter: Interpreter) -> Iterator[str]:
    if interpreter.library_path:
        yield from ("--setenv", "LD_LIBRARY_PATH", _outside(interpreter, interpreter.library_path))


def _outside(interpreter: Interpreter, inside: str) -> str:
    """Return where a path of the sandbox's Python is on the host, and in the namespace around the sandbox."""
    for source, place in interpreter.binds:
        if inside.startswith(f"{place}/"):
            return source + inside[len(place) :]
    return inside
