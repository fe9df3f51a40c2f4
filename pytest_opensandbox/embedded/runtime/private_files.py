"""Hiding of the host's private files, where a sandbox runs as a user of this machine who can read them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_opensandbox.embedded.runtime.system_layer import write_whiteout

_PROGRAM = Path(__file__).with_name("private_files_program.py")


class PrivateFileSearch:
    """A search for private files, in a process of its own, so that the server starts meanwhile.

    Args:
        directories: to search.
        special: whether sockets and pipes are looked for as well.
    """

    def __init__(self, directories: Sequence[str], *, special: bool = False) -> None:
        options = ["--special"] if special else []
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", str(_PROGRAM), *options, *directories],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def result(self) -> tuple[list[str], list[str]]:
        """Wait for the end, and return the files and the directories found.

        Raises:
            OSError: the search failed.
        """
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise OSError("the search for private files in the system directories failed")
        paths = [os.fsdecode(path) for path in output.split(b"\0") if path]
        return [path for path in paths if not path.endswith("/")], [path[:-1] for path in paths if path.endswith("/")]

    def hide_in(self, layer: Path) -> None:
        """Write whiteouts over the result into a layer, once the search has ended.

        Raises:
            OSError: the search failed.
        """
        files, directories = self.result()
        for path in (*files, *directories):
            whiteout = layer / path.lstrip("/")
            whiteout.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(whiteout):
                write_whiteout(whiteout)
