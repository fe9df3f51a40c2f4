"""Everything that one server owns, put together and taken apart again."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_opensandbox.embedded.background import Background
from pytest_opensandbox.embedded.bubblewrap import BubblewrapRefusedError, find_bubblewrap
from pytest_opensandbox.embedded.bytecode import compile_ahead
from pytest_opensandbox.embedded.host import look_around
from pytest_opensandbox.embedded.obstacles import StartError, likely_cause
from pytest_opensandbox.embedded.runtime import RuntimeDirectory

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.registry import Registry

_READ_ONLY = "this machine refuses overlays, so /usr, /etc and /opt are read-only in the sandbox"
_UNGUARDED = "this machine refuses nested namespaces, so hostile code may outlive a server that is killed"

_UNFILTERED = (
    "this machine has no seccomp filter for sandboxes: their system calls are only limited by the kernel's rules"
)


class House:
    """A server's private directory, its way to make sandboxes, and the sandboxes."""

    def __init__(self) -> None:
        self._runtime = RuntimeDirectory()
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
        self._background = Background()
        self._registry: Registry | None = None

    @property
    def directory(self) -> str:
        """Where it keeps what is its own."""
        return str(self._runtime.path)

    def prepare(self) -> None:
        """Find out how sandboxes can be made here.

        Raises:
            StartError: they cannot.
        """
        self._runtime.build_layer()
        self._host = look_around()
        try:
            # In the thread that starts them all, because that is what dies last.
            self._bubblewrap = self._starter.submit(find_bubblewrap, self._host, self._runtime.layer).result()
        except BubblewrapRefusedError as error:
            raise StartError(str(error), likely_cause(str(error))) from error
        self._notes = [] if self._bubblewrap.is_copy_on_write else [_READ_ONLY]
        self._notes += [] if self._bubblewrap.guard else [_UNGUARDED]
        self._notes += [] if self._bubblewrap.call_filter else [_UNFILTERED]
        for note in self._notes:
            print(note, file=sys.stderr, flush=True)  # noqa: T201 - a server's place to say so

    def open(self, listener: socket.socket, api_key: str) -> None:
        """Begin to answer.

        Args:
            listener: bound to a loopback port.
            api_key: what requests must carry.
        """
        from pytest_opensandbox.embedded.devices import protect_devices  # lazily, these are slow to load
        from pytest_opensandbox.embedded.process import Workshop
        from pytest_opensandbox.embedded.registry import Registry
        from pytest_opensandbox.embedded.server import serve

        self._starter.submit(protect_devices)  # mounts of the thread, and this thread starts all sandboxes
        runtime = self._runtime
        workshop = Workshop(self._bubblewrap, self._host, runtime.path, runtime.layer, self._background, self._starter)
        self._registry = Registry(workshop, self._notes)
        serve(listener, self._registry, api_key)
        compile_ahead(self._host.interpreter)

    def close(self) -> bool:
        """End every sandbox, remove the private directory, and say whether all of them have ended."""
        have_ended = self._registry is None or self._registry.close()
        self._runtime.remove()
        return have_ended
