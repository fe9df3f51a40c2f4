"""Reads what a sandbox prints into its log, no faster than a log is worth: a sandbox that writes more waits."""

from __future__ import annotations

import asyncio
import os

from pytest_opensandbox.embedded.runtime.background import Background
from pytest_opensandbox.embedded.runtime.log import Log

_READ_BYTES = 65536
# 5 MiB a second: a sandbox that writes without end takes about a hundredth of a processor here.
_BURST_BYTES = 256 * 1024
_REST_SECONDS = 0.05


class OutputReader:
    """The server's end of a sandbox's output; all but the start happens in the background loop.

    Args:
        descriptor: of a pipe; closed when the sandbox has ended.
        log: takes what comes.
        background: the loop.
    """

    def __init__(self, descriptor: int, log: Log, background: Background) -> None:
        self._descriptor = descriptor
        self._log = log
        self._background = background
        self._left_bytes = _BURST_BYTES
        self._rest: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to read."""
        os.set_blocking(self._descriptor, False)
        self._background.call(self._follow)

    def close(self) -> None:
        """Read what is left, and let go."""
        self._stop()
        while self._read():
            pass
        os.close(self._descriptor)

    def _follow(self) -> None:
        self._rest = None
        self._left_bytes = _BURST_BYTES
        self._background.loop.add_reader(self._descriptor, self._take)

    def _take(self) -> None:
        """Take what there is, and rest after much of it."""
        if self._read() == b"":
            self._stop()
        elif self._left_bytes <= 0:
            self._stop()
            self._rest = self._background.loop.call_later(_REST_SECONDS, self._follow)

    def _read(self) -> bytes | None:
        """Read once; return nothing at the end, and None where there is nothing yet."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        if data:
            self._log.write(data)
            self._left_bytes -= len(data)
        return data

    def _stop(self) -> None:
        self._background.loop.remove_reader(self._descriptor)
        if self._rest:
            self._rest.cancel()
