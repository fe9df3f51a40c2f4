"""The outside of a sandbox that somebody holds: what it is, where its ports are, its pauses and its end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from pytest_opensandbox.client.waiters import PAUSE_SECONDS
from pytest_opensandbox.errors import PauseError, SandboxClosedError
from pytest_opensandbox.sandbox.agent import Agent
from pytest_opensandbox.sandbox.history import History
from pytest_opensandbox.sandbox.lifecycle import Lifecycle, ReadySandbox
from pytest_opensandbox.transport.endpoints import Endpoint

Told = Callable[[Any], None]
"""Is given the handle that was closed."""


class Handle:
    """What a test holds of a sandbox, apart from what it does inside; as a context manager it deletes the sandbox.

    Args:
        lifecycle: owns its life.
        launched: the sandbox, ready.
    """

    def __init__(self, lifecycle: Lifecycle, launched: ReadySandbox) -> None:
        self.started = time.monotonic()
        """``time.monotonic()`` when it became ready; seconds."""
        self._lifecycle = lifecycle
        self._launched = launched
        self._agent = Agent(lifecycle.client, launched.endpoint, ready_timeout=lifecycle.ready_timeout)
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        self._paused = False
        self._on_close: list[Told] = []

    @property
    def id(self) -> str:
        """The server's id."""
        return self._launched.response.id

    @property
    def image(self) -> str:
        """The image, snapshot or pool that it was made from."""
        return self._launched.image

    @property
    def metadata(self) -> Mapping[str, str]:
        """The labels that it was created with, this run's tags among them."""
        return self._launched.response.metadata

    @property
    def history(self) -> History:
        """Its last commands and copies, oldest first."""
        return self._agent.history

    @property
    def gone(self) -> str:
        """What became of it, where a call failed because it had ended before its time; else ""."""
        return self._agent.gone

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def state(self) -> str:
        """``running``, ``paused``, ``closed``, or ``gone`` and why, as far as this handle knows."""
        if self._closed:
            return "closed"
        return f"gone ({self.gone})" if self.gone else "paused" if self._paused else "running"

    def endpoint(self, port: int, *, signed_for: float | None = None) -> Endpoint:
        """Return where a port of the sandbox can be reached from here by HTTP; send its headers on every request.

        Other protocols do not pass: run their clients in the sandbox. The address may hold what opens the port.
        What listens on loopback is reached, too, but not through the own proxy of a server on Docker; use 0.0.0.0.

        Args:
            port: where a server in the sandbox speaks HTTP; 1 … 65,535.
            signed_for: ask a Kubernetes gateway for an address that opens the port to whoever has it, for so many
                seconds; None for the usual one.

        Raises:
            ConfigError: there is no such port.
            SandboxClosedError: the sandbox is closed.
            PauseError: the sandbox is paused.
            SandboxGoneError: it has ended.
            ApiError: the server cannot reach that port.
            TransportError: the server does not answer.
        """
        self._check_open()
        with self._agent.explained():
            return self._lifecycle.client.get_endpoint(self.id, port, signed_for=signed_for)

    def pause(self, *, timeout: float = PAUSE_SECONDS) -> None:
        """Freeze the sandbox, and return when it is frozen; its lease is kept.

        Docker and the embedded server stop its processes where they are. Kubernetes keeps its files only, as an image.

        Args:
            timeout: seconds that it may take.

        Raises:
            PauseError: it is paused already, runs on instead, or was not paused in time.
            SandboxFailedError: it ended.
            ApiError: the server refuses, or cannot do it.
            TransportError: the server does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        self._check_open()
        client = self._lifecycle.client
        client.pause(self.id)
        self._paused = True
        try:
            client.wait_paused(self.id, timeout=timeout)
        except PauseError as exc:
            self._paused = exc.state != "Running"
            raise

    def resume(self, *, timeout: float | None = None) -> None:
        """Let a paused sandbox run again, and return when commands can run in it, wherever it is then.

        Args:
            timeout: seconds that it may take; default ``--opensandbox-ready-timeout``.

        Raises:
            ConflictError: it is not paused.
            SandboxFailedError: it ended.
            ReadyTimeoutError: it was not ready in time.
            ApiError: the server refuses, or cannot do it.
            TransportError: the server does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        self._check_open(paused=True)
        client = self._lifecycle.client
        client.resume(self.id)
        seconds = self._lifecycle.ready_timeout if timeout is None else timeout
        _, endpoint = client.wait_ready_endpoint(self.id, timeout=seconds)
        self._agent.move(endpoint)
        self._paused = False

    def close(self) -> None:
        """Delete the sandbox; a second call does nothing, nor does one in a fork of the process that made it.

        Raises:
            ApiError: the server refuses; the sweep at the end of the run tries again.
            TransportError: the server does not answer; its lease ends it.
        """
        if os.getpid() != self._process:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            self._lifecycle.delete(self.id)
        finally:
            for told in self._on_close:
                told(self)

    def call_on_close(self, told: Told) -> None:
        """Have ``told`` called with this handle once it has been closed."""
        self._on_close.append(told)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} image={self.image} {self.state}>"

    def _check_open(self, *, paused: bool = False) -> None:
        """Refuse what a closed sandbox cannot do, and unless it may be paused, what a paused one cannot."""
        if self._closed:
            raise SandboxClosedError(self.id)
        if self._paused and not paused:
            raise PauseError(self.id, "is paused; resume() it first", state="Paused")
