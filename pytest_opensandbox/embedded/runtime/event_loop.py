"""The asyncio loop, in its own thread, for relays, logs, ends of processes and timers of all sandboxes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class BackgroundLoop:
    """The loop, seen from other threads."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        threading.Thread(target=self._run, name="background", daemon=True).start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; only its own thread may use it directly."""
        self._ready.wait()
        assert self._loop is not None
        return self._loop

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Schedule a call in the loop."""
        self.loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        """Run the loop until the server ends."""
        import asyncio  # lazily and in this thread, while the rest of the server starts

        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
