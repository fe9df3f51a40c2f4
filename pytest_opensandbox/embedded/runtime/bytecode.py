"""Compiles what the agent imports, once, so that not every sandbox does it again."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host import Interpreter


def compile_ahead(*interpreters: Interpreter) -> None:
    """Bring the bytecode beside the agent's sources up to date, in a thread of its own.

    Sandboxes cannot do it, they see these directories read-only. Where the server cannot write there either,
    each agent compiles in memory and starts that much later.

    Args:
        interpreters: the one that will run the agent, with its libraries where they lie, and with copies of them.
    """
    libraries = [Path(source) for known in interpreters for source, inside in known.binds if "/lib/" in inside]
    threading.Thread(target=_compile, args=(libraries,), name="bytecode", daemon=True).start()


def _compile(libraries: list[Path]) -> None:
    for library in libraries:
        for source in sorted(library.rglob("*.py")):
            with suppress(OSError, SyntaxError, ValueError):
                # Reads bytecode that is there and fits, else compiles and writes it, as an import would.
                SourceFileLoader(source.stem, str(source)).get_code(source.stem)
