"""What a test starts in a sandbox and connects to: processes, ports, endpoints and terminals."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from pytest_opensandbox.client.command_run import MAX_STREAM_BYTES, input_bytes
from pytest_opensandbox.client.models import EXECD_PORT
from pytest_opensandbox.errors import ServiceTimeoutError, TransportError
from pytest_opensandbox.sandbox.agent import Agent
from pytest_opensandbox.sandbox.bridge import Bridge
from pytest_opensandbox.sandbox.forwarding import ExposedPort, ForwardedPort
from pytest_opensandbox.sandbox.history import record_note
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.process import Process
from pytest_opensandbox.sandbox.runner_protocol import Invocation
from pytest_opensandbox.sandbox.terminal import run_in_terminal
from pytest_opensandbox.transport.endpoints import Endpoint, check_port
from pytest_opensandbox.transport.retry import check_seconds, poll_until_ready

T = TypeVar("T")

_SIGNAL_SECONDS = 5.0
_TERMINAL_TYPE = "xterm-256color"
# How long the runner waits for a port before the process is looked at again.
_SLICE_SECONDS = 0.25


class Services:
    """The processes and ports of a sandbox; part of the handle."""

    _agent: Agent
    _lifecycle: Lifecycle

    @property
    def id(self) -> str:
        """The server's id."""
        raise NotImplementedError

    def _check_open(self, *, paused: bool = False) -> None:
        raise NotImplementedError

    def start(
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        cwd: str | PurePosixPath | None = None,
        env: Mapping[str, str] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        timeout: float | None = None,
        input: bytes | str | None = None,  # noqa: A002 - the name that subprocess has for it
        max_bytes: int = MAX_STREAM_BYTES,
    ) -> Process:
        """Start a command, and return when it has begun; it ends with the sandbox, or with its ``with`` block.

        Args:
            command: as for ``run``.
            cwd: as for ``run``.
            env: as for ``run``.
            uid: as for ``run``.
            gid: as for ``run``.
            timeout: seconds until it is killed with its descendants; None for no limit.
            input: standard input; text is sent as UTF-8.
            max_bytes: most that is kept of each stream; the middle of a longer one is left out; bytes.

        Returns:
            The process, with the names of ``subprocess.Popen``.

        Raises:
            CommandStartError: it could not be started.
            SandboxError: the runner cannot run in the sandbox.
            TransportError: the agent does not answer.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
            ConfigError: an argument breaks a rule.
        """
        __tracebackhide__ = True
        words = words_of(command)
        process = Process(words, max_bytes=max_bytes, send=self._send_signal)
        invocation = Invocation(
            command=words,
            cwd=None if cwd is None else path_text(cwd),
            env=env,
            uid=uid,
            gid=gid,
            timeout=timeout,
            stdin=input_bytes(input),
            observer=process,
            max_bytes=max_bytes,
        )
        self._check_open()
        self._agent.start(invocation, process)
        return process

    def wait_for_port(self, port: int, *, timeout: float = 30.0, process: Process | None = None) -> None:
        """Wait until a server in the sandbox listens on a TCP port, on any of its addresses; no connection is made.

        Args:
            port: 1 … 65,535.
            timeout: seconds.
            process: the server; the wait fails at once when it ends.

        Raises:
            ServiceTimeoutError: no server listens in time, or the process has ended; shows what it wrote.
            TransportError: the agent does not answer.
        """
        __tracebackhide__ = True
        check_port(port)
        fields = [("o", port), ("t", round(_SLICE_SECONDS * 1000))]

        def listens() -> bool | None:
            return True if self._agent.ask("port", fields, seconds=_SLICE_SECONDS) == 0 else None

        self._wait(f"port {port}", listens, timeout, process)

    def wait_for_log(self, process: Process, pattern: str, *, timeout: float = 30.0) -> re.Match[str]:
        """Wait until a process has written text that matches, to either stream.

        Args:
            process: what ``start`` returned.
            pattern: a regular expression, searched in all that each stream has.
            timeout: seconds.

        Returns:
            The first match.

        Raises:
            ServiceTimeoutError: no such text in time, or the process has ended without it; shows what it wrote.
        """
        __tracebackhide__ = True
        check_seconds("timeout", timeout)
        compiled = re.compile(pattern, re.MULTILINE)

        def found() -> re.Match[str] | None:
            return compiled.search(process.stdout.text) or compiled.search(process.stderr.text)

        process.wait_until(lambda: found() is not None or process.is_over, timeout)
        if match := found():
            return match
        raise process.error(f"text that matches {pattern!r}", _why(process, timeout))

    def wait_for_http(
        self,
        port: int,
        path: str = "/",
        *,
        status: int = 200,
        timeout: float = 30.0,
        process: Process | None = None,
    ) -> None:
        """Wait until a server in the sandbox answers GET with a status.

        Args:
            port: 1 … 65,535.
            path: with a leading slash.
            status: the one to wait for.
            timeout: seconds.
            process: the server; the wait fails at once when it ends.

        Raises:
            ServiceTimeoutError: no such answer in time, or the process has ended; shows what it wrote.
        """
        __tracebackhide__ = True
        check_port(port)
        client = self._lifecycle.client
        seen: list[str] = []

        def answers() -> bool | None:
            try:
                # The agent reaches loopback, too, which a server's own proxy does not.
                got = client.probe(self._agent.endpoint, f"/proxy/{port}{path}")
            except TransportError as exc:
                seen[:] = [str(exc)]
                return None
            seen[:] = [f"the last status was {got}"]
            return True if got == status else None

        self._wait(f"status {status} of {path} on port {port}", answers, timeout, process, lambda: "; ".join(seen))

    def _wait(
        self,
        awaited: str,
        poll: Callable[[], T | None],
        timeout: float,
        process: Process | None,
        facts: Callable[[], str] = str,
    ) -> T:
        __tracebackhide__ = True
        check_seconds("timeout", timeout)
        self._check_open()

        def fail(why: str) -> ServiceTimeoutError:
            text = "; ".join(part for part in (why, facts()) if part)
            if process is not None:
                return process.error(awaited, text)
            return ServiceTimeoutError(awaited, why=text, sandbox_id=self.id)

        def look() -> T | None:
            found = poll()
            if found is None and process is not None and process.is_over:
                raise fail(_why(process, timeout))
            return found

        return poll_until_ready(
            look,
            budget_seconds=timeout,
            on_timeout=lambda seconds, _: fail(f"not within {seconds:.0f} s"),
            timeouts=self._lifecycle.client.timeouts,
        )

    def _send_signal(self, process_group: int, number: int) -> int:
        return self._agent.ask("signal", [("j", process_group), ("z", number)], seconds=_SIGNAL_SECONDS)

    @contextmanager
    def forward(self, port: int) -> Iterator[tuple[str, int]]:
        """Give a local TCP port whose connections arrive at a port in the sandbox, for the length of a ``with`` block.

        Any protocol over TCP passes, both ways, on any number of connections, with half-close and reset. A connection
        to a port on which no server listens is reset; the report of a failed test says so.

        Args:
            port: on loopback in the sandbox, IPv4 or IPv6; 1 … 65,535.

        Yields:
            Host and port to connect to.

        Raises:
            SandboxError: the runner cannot run in the sandbox.
            TransportError: the agent does not answer.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
            ConfigError: there is no such port.
        """
        check_port(port)
        self._check_open()
        bridge = Bridge(self._lifecycle.client, self._agent)
        forwarded = ForwardedPort(bridge, port, self._noting(f"forward {port}"))
        try:
            yield forwarded.address
        finally:
            forwarded.close()

    @contextmanager
    def expose(self, port: int, *, host: str = "127.0.0.1", inner_port: int = 0) -> Iterator[int]:
        """Let the sandbox reach one port of this machine, for the length of a ``with`` block, whatever its network.

        Args:
            port: of the server on this machine; 1 … 65,535. The sandbox reaches this port, and no other.
            host: where that server listens.
            inner_port: the port in the sandbox, on 127.0.0.1; 0 for any that is free.

        Yields:
            The port to connect to in the sandbox, on 127.0.0.1.

        Raises:
            SandboxError: the runner cannot run in the sandbox, or the inner port is in use.
            TransportError: the agent does not answer.
            SandboxGoneError: the sandbox has ended; says why.
            SandboxClosedError: the sandbox is closed.
            ConfigError: there is no such port.
        """
        check_port(port)
        if inner_port:
            check_port(inner_port)
        self._check_open()
        bridge = Bridge(self._lifecycle.client, self._agent, inner_port=inner_port)
        exposed = ExposedPort(bridge, (host, port), self._noting(f"expose {host}:{port}"))
        try:
            yield bridge.inner_port
        finally:
            exposed.close()

    def shell(
        self,
        command: str | Sequence[str | os.PathLike[str]] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | PurePosixPath | None = None,
    ) -> int:
        """Attach this process's terminal to a shell in the sandbox, until that ends; a look around in a failed test.

        It uses the terminal itself, so that pytest's capture is no obstacle.

        Args:
            command: what to run in a terminal instead, as for ``run``.
            env: variables on top of the sandbox's own; ``TERM`` is ``xterm-256color`` unless it is given.
            cwd: working directory.

        Returns:
            The exit code; minus the number of a signal.

        Raises:
            ConfigError: this process has no terminal.
            SandboxError: the runner cannot run in the sandbox, or the connection ended.
            TransportError: the agent does not answer.
            SandboxClosedError: the sandbox is closed.
        """
        self._check_open()
        words = None if command is None else words_of(command)
        with Bridge(self._lifecycle.client, self._agent) as bridge:
            variables = {"TERM": _TERMINAL_TYPE, **(env or {})}
            return run_in_terminal(bridge, words, env=variables, cwd=None if cwd is None else path_text(cwd))

    def _noting(self, what: str) -> Callable[[str], None]:
        return lambda why: self._agent.history.append(record_note(f"{what}: {why}", "refused"))

    def endpoint(self, port: int, *, signed_for: float | None = None) -> Endpoint:
        """Return the address at which a port of the sandbox is reached by HTTP; send its headers on every request.

        HTTP and WebSocket pass; ``forward`` is for every other protocol. The address may hold the secret that opens
        the port.
        A service on 127.0.0.1 is reached, too, except through a Kubernetes gateway: there it must listen on 0.0.0.0.
        One on ::1 alone is reached on the embedded server.

        Args:
            port: where a server in the sandbox speaks HTTP; 1 … 65,535.
            signed_for: ask a Kubernetes gateway for an address that opens the port to everyone who has it, for so many
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
        client = self._lifecycle.client
        with self._agent.explaining_failures():
            if client.use_server_proxy and signed_for is None and port != EXECD_PORT:
                # The agent reaches loopback, which the server's own proxy does not.
                check_port(port)
                agent = client.get_endpoint(self.id, EXECD_PORT)
                return replace(agent, url=f"{agent.url}/proxy/{port}")
            return client.get_endpoint(self.id, port, signed_for=signed_for)


def _why(process: Process, timeout: float) -> str:
    return f"not within {timeout:g} s" if process.returncode is None else f"it has ended with {process.returncode}"


def words_of(command: str | Sequence[str | os.PathLike[str]]) -> str | Sequence[str]:
    """Return a command with its path objects as text; other types are refused later."""
    if isinstance(command, (str, bytes)) or not isinstance(command, Iterable):
        return command
    return [path_text(word) for word in command]


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as text; other types are refused later."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path
