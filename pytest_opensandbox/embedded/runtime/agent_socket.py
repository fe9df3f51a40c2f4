"""The socket on which an agent listens: nobody but this server has a way to it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

_BACKLOG = 1024

EXECD_PORT = 44772
TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name, not a token


class AgentSocket:
    """A listening unix socket without a name.

    It is bound in the server's private directory and its name removed at once. What is left is a descriptor of the
    bound file, through which only this process can connect, so no path exists that a sandbox could see or redirect,
    and a server that is killed leaves nothing behind.

    Attributes:
        listener: for the agent to inherit; close it when the agent has it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Through the descriptor: a unix address has 107 bytes, which a directory for temporary files may exceed.
            self.listener.bind(f"/proc/self/fd/{parent}/{name}")
            self._file = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=parent)
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)
        self.listener.listen(_BACKLOG)
        self._lock = threading.Lock()

    def connect(self, timeout: float | None = 0) -> socket.socket:
        """Return a new connection to the agent; it waits in the queue until the agent accepts.

        Args:
            timeout: seconds that each operation on the connection may take; 0 for one that does not block.

        Raises:
            OSError: the agent is gone, or its queue is full.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            with self._lock:  # once closed, the number may stand for another sandbox's socket
                connection.connect(f"/proc/self/fd/{self._file}")
        except BaseException:
            connection.close()
            raise
        connection.settimeout(timeout)
        return connection

    def close(self) -> None:
        """Give up the way to the agent."""
        self.listener.close()
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
