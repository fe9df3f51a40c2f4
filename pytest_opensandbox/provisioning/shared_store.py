"""A store that the processes of one run share: one process builds a value, the others wait and read it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_opensandbox.errors import OpenSandboxError
from pytest_opensandbox.temporary_directories import hold, remove_unheld, temporary_directory
from pytest_opensandbox.text import os_reason


class SharedStore:
    """A directory that holds a lock and a value for each key; it is created on first use.

    The kernel releases the lock of a process that dies, and the next process that waits builds the value instead.

    Args:
        path: the directory of another process of the run; "" to create one.
    """

    def __init__(self, path: str = "") -> None:
        self._is_ours = not path
        self._parent = os.getppid()
        self._held = -1
        self._holding = threading.Lock()
        self.path = path or str(temporary_directory("setups", secrets.token_hex(16)))
        """The directory; its name cannot be guessed."""

    def find(self, key: str) -> Mapping[str, Any] | None:
        """Return the value of a key, None where it has none yet.

        Raises:
            OpenSandboxError: the directory cannot be used.
        """
        with self._named():
            try:
                found: Mapping[str, Any] = json.loads(Path(self.path, key).read_text(encoding="utf-8"))
            except FileNotFoundError:
                return None
        return found

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Let one thread of one process at a time into the block of a key.

        Raises:
            OpenSandboxError: the directory cannot be used.
        """
        with self._named():
            with self._holding:
                self._held = self._held if self._held >= 0 else hold(Path(self.path))
            lock = os.open(Path(self.path, f"{key}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def store(self, key: str, value: Mapping[str, Any]) -> None:
        """Store the value of a key, all of it or nothing; call it inside ``locked``.

        Raises:
            OpenSandboxError: the directory cannot be used.
        """
        draft = Path(self.path, f"{key}.draft")
        with self._named():
            draft.write_text(json.dumps(value), encoding="utf-8")
            draft.replace(Path(self.path, key))

    def clear(self) -> None:
        """Remove the directory, where this process created it, or its killed parent did; safe to call again."""
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)
        if self._is_ours:
            shutil.rmtree(self.path, ignore_errors=True)
        elif os.getppid() != self._parent:
            # Other processes may still use it; the last of them removes it.
            remove_unheld(Path(self.path))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn a failure into an error that names the directory and what to do: that of a full disk names no file."""
        try:
            yield
        except OSError as exc:
            raise OpenSandboxError(
                "the processes of a run share the outcomes of setups by a directory that cannot be used"
                f" ({os_reason(exc, self.path)}): free some space there, or set TMPDIR to another directory"
            ) from exc
