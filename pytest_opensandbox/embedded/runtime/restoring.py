"""A sandbox that begins with what a snapshot kept: overlays on its layers, or a copy where overlays are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_opensandbox.embedded.runtime.bubblewrap import Bubblewrap, over_layers
from pytest_opensandbox.embedded.runtime.host import Host, Interpreter
from pytest_opensandbox.embedded.runtime.limits import private_bytes
from pytest_opensandbox.embedded.runtime.trees import PRIVATE, UPPER, layer_place

MOST_ENTRIES = 500_000
_RIGHTS = ("CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID")

COPIER = Path(__file__).parents[1] / "copier"
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
    laid = over_layers(bubblewrap, host, layer, layers)
    if laid.is_copy_on_write:
        return laid
    # The copy must be able to read what the sandbox made unreadable, and to give everything its owner.
    rights = [part for name in _RIGHTS for part in ("--cap-add", name)]
    own = ("--ro-bind", host.copier, str(COPIER), *rights, *_library_path(host.interpreter))
    return replace(laid, guard=(*laid.guard, *own), preparation=tuple(_copying(host.interpreter)))


def _copying(interpreter: Interpreter) -> Iterator[str]:
    """Yield the command that copies the private directories, and then becomes what follows."""
    order = {
        "source": layer_place(0, ""),
        "target": UPPER,
        "trees": {PRIVATE: {"fixed": [], "is_overlay": False}},
        "entries": MOST_ENTRIES,
        "bytes": private_bytes(),
        "is_root": True,
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
