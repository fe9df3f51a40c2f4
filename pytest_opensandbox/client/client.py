"""The client of one server and of the agents in its sandboxes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from math import ceil
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_opensandbox.client.commands import CommandsAPI
from pytest_opensandbox.client.files import FilesAPI
from pytest_opensandbox.client.models import EXECD_PORT, SandboxResponse
from pytest_opensandbox.client.sandboxes import (
    LONGEST_LEASE_SECONDS,
    SandboxesAPI,
    sandbox_path,
)
from pytest_opensandbox.client.server_health import Health
from pytest_opensandbox.client.snapshots import SnapshotsAPI
from pytest_opensandbox.client.waiters import PAUSE_SECONDS, PauseWait, ReadinessProbes, ReadyWait
from pytest_opensandbox.errors import ApiError, ConfigError, ProtocolError
from pytest_opensandbox.transport.api_key import masked
from pytest_opensandbox.transport.endpoints import Endpoint, check_port, read_endpoint
from pytest_opensandbox.transport.retry import check_seconds, one_call, retry_idempotent
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, Timeouts
from pytest_opensandbox.transport.transport import Query, Transport

if TYPE_CHECKING:
    from pytest_opensandbox.transport.websocket import WebSocket

_ENDPOINT_BYTES = 65_536


class Client(SandboxesAPI, SnapshotsAPI, CommandsAPI, FilesAPI):
    """Talks to one OpenSandbox server and to the agents in its sandboxes; safe to use from several threads.

    Args:
        lifecycle_url: the server, with or without ``/v1``.
        api_key: its key, None where it needs none; never shown, and sent to the server and its own proxy alone.
        use_server_proxy: reach sandboxes through the server, where they cannot be reached directly.
        request_timeout: seconds between two bytes of an ordinary answer; default ``timeouts.request_seconds``.
        create_timeout: seconds that a create may take; default ``timeouts.create_seconds``.
        ca_bundle: file with the certificates to trust, None for the usual ones.
        watched: whether a server that takes its time for a create is asked for its health meanwhile, and given up
            after 40 s without a word; servers before 1.1 say nothing while they pull an image.
        timeouts: the lengths of all other waits.

    Raises:
        ConfigError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        lifecycle_url: str,
        api_key: str | None = None,
        *,
        use_server_proxy: bool = False,
        request_timeout: float | None = None,
        create_timeout: float | None = None,
        ca_bundle: str | None = None,
        watched: bool = False,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        # The first statement, so that no frame of this package shows the key in a traceback.
        api_key = masked(api_key)
        timeouts = replace(
            timeouts,
            request_seconds=timeouts.request_seconds if request_timeout is None else request_timeout,
            create_seconds=timeouts.create_seconds if create_timeout is None else create_timeout,
        )
        check_seconds("request_timeout", timeouts.request_seconds)
        check_seconds("create_timeout", timeouts.create_seconds)
        self._transport = Transport(lifecycle_url, api_key, ca_bundle=ca_bundle, timeouts=timeouts)
        self.use_server_proxy = use_server_proxy
        """Whether sandboxes are reached through the server."""
        self._ends = {}
        self._health = Health(self._transport, watched=watched)

    @property
    def timeouts(self) -> Timeouts:
        """The lengths of all waits."""
        return self._transport.timeouts

    @one_call
    def get_endpoint(self, sandbox_id: str, port: int, *, signed_for: float | None = None) -> Endpoint:
        """Return where a port of a sandbox can be reached by HTTP; nothing needs to listen there yet.

        Args:
            sandbox_id: the sandbox.
            port: where a server in the sandbox speaks HTTP, on its loopback; 1 … 65,535.
            signed_for: ask for an address that opens the port to everyone who has it, for so many seconds by the
                server's clock; needs Kubernetes with a gateway that has signing keys. None for the usual address.

        Returns:
            The URL with its scheme, and the headers that requests to it need.

        Raises:
            ConfigError: ``port`` or ``signed_for`` is out of range, or the client goes through the server's own proxy.
            NotFoundError: no such sandbox, or it has no address yet.
            ApiError: the server refuses.
            ProtocolError: the answer is not an address.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes/{sandboxId}/endpoints/{port}.
        """
        check_port(port)
        query = self._signing(signed_for)
        return retry_idempotent(
            lambda: self._fetch_endpoint(sandbox_id, port, query=query), timeouts=self._transport.timeouts
        )

    def open_websocket(self, endpoint: Endpoint, path: str = "/") -> WebSocket:
        """Open a WebSocket connection to a server in a sandbox.

        Args:
            endpoint: its port.
            path: with a leading slash.

        Raises:
            ApiError: the server refuses the change of protocol.
            TransportError: no answer.
        """
        return self._transport.open_websocket(endpoint, path)

    def probe(self, endpoint: Endpoint, path: str = "/") -> int:
        """Return the status with which a server in a sandbox answers GET.

        Args:
            endpoint: its port.
            path: with a leading slash.

        Raises:
            TransportError: no answer; a proxy on the way may answer 502 instead.
        """
        try:
            with self._transport.ask(endpoint, "GET", path) as response:
                return response.status
        except ApiError as exc:
            return exc.status

    def discover_execd(self, sandbox_id: str) -> Endpoint:
        """Return the address of the agent of a sandbox.

        Args:
            sandbox_id: the sandbox.

        Returns:
            The URL with its scheme, and the headers that requests to it need.

        Raises:
            NotFoundError: no such sandbox, or it has no address yet.
            ApiError: the server refuses.
            ProtocolError: the answer is not an address.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes/{sandboxId}/endpoints/{port}.
        """
        return self.get_endpoint(sandbox_id, EXECD_PORT)

    def wait_ready(self, sandbox_id: str, *, timeout: float = 60.0) -> SandboxResponse:
        """Return a sandbox as soon as commands can run in it.

        Args:
            sandbox_id: the sandbox.
            timeout: one budget for all requests and waits; seconds.

        Returns:
            The sandbox, in the state Running.

        Raises:
            SandboxFailedError: it ended; carries the server's reason and the end of its logs.
            ReadyTimeoutError: the time is up; says what was wrong at the last poll.
            AuthError: the key is missing or wrong.
            NotFoundError: no such sandbox.
            ApiError: the server refuses.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes/{sandboxId}, and specs/execd-api.yaml, GET /ping.
        """
        return self.wait_ready_endpoint(sandbox_id, timeout=timeout)[0]

    def wait_ready_endpoint(
        self, sandbox_id: str, *, timeout: float = 60.0, known: SandboxResponse | None = None
    ) -> tuple[SandboxResponse, Endpoint]:
        """Return a sandbox and its agent's endpoint as soon as commands can run in it.

        Args:
            sandbox_id: the sandbox.
            timeout: one budget for all requests and waits; seconds.
            known: what ``create_sandbox`` returned, which saves a request.

        Returns:
            The sandbox, in the state Running, and its agent's endpoint.

        Raises:
            SandboxFailedError: it ended; carries the server's reason and the end of its logs.
            ReadyTimeoutError: the time is up; says what was wrong at the last poll.
            AuthError: the key is missing or wrong.
            NotFoundError: no such sandbox.
            ApiError: the server refuses.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes/{sandboxId}, and specs/execd-api.yaml, GET /ping.
        """
        check_seconds("timeout", timeout)
        probes = ReadinessProbes(
            state=lambda: self._fetch_sandbox(sandbox_id),
            endpoint=lambda: self._fetch_endpoint(sandbox_id, EXECD_PORT),
            ping=lambda endpoint, seconds: self.ping(endpoint, timeout=seconds),
            logs=lambda: self.diagnostics(sandbox_id),
        )
        return ReadyWait(sandbox_id, probes, known=known, timeouts=self.timeouts).wait(timeout)

    def wait_paused(self, sandbox_id: str, *, timeout: float = PAUSE_SECONDS) -> SandboxResponse:
        """Return a sandbox as soon as it is paused, once ``pause`` has asked for that.

        Args:
            sandbox_id: the sandbox.
            timeout: one budget for all requests and waits; seconds.

        Returns:
            The sandbox, in the state Paused.

        Raises:
            PauseError: it runs again instead, or the time is up; carries the last state from the server.
            SandboxFailedError: it ended.
            NotFoundError: no such sandbox.
            ApiError: the server refuses.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes/{sandboxId}; docs/pause-resume.md.
        """
        check_seconds("timeout", timeout)
        return PauseWait(sandbox_id, lambda: self._fetch_sandbox(sandbox_id), timeouts=self.timeouts).wait(timeout)

    @one_call
    def server_version(self) -> str:
        """Return the server's version.

        Returns:
            Text such as ``1.1.1``; "" where the answer has no version.

        Raises:
            ApiError: the server refuses.
            TransportError: no answer.

        Source: opensandbox_server.main, GET /version; below the server's address, not below ``/v1``.
        """
        answer = retry_idempotent(
            lambda: self._transport.request("GET", f"{self._transport.root}/version").json(),
            timeouts=self._transport.timeouts,
        )
        return str(answer.get("version") or "") if isinstance(answer, dict) else ""

    def server_time(self) -> datetime:
        """Return the server's clock, according to its last answer; sends nothing.

        Returns:
            A time in UTC, with time zone; this machine's clock where the server has not answered yet.

        Source: the header ``Date`` of the server's answers.
        """
        return datetime.fromtimestamp(self._transport.server_time(), timezone.utc)

    def check_alive(self, *, timeout: float = 10.0) -> None:
        """Return when the server answers, whatever the answer.

        Args:
            timeout: seconds to wait for the answer.

        Raises:
            TransportError: no answer in time.

        Source: opensandbox_server.main, GET /health; below the server's address, not below ``/v1``.
        """
        check_seconds("timeout", timeout)
        self._health.check(timeout)

    def replace_server(self, lifecycle_url: str, api_key: str) -> None:
        """Talk from now on to another server, which has been started in the place of one that died.

        Args:
            lifecycle_url: the new server, on the machine of the old one.
            api_key: its key.

        Raises:
            ConfigError: the URL or the key cannot be used.
        """
        self._transport.replace_server(lifecycle_url, masked(api_key))
        self._ends.clear()

    def close(self) -> None:
        """Close all connections; sandboxes stay."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._transport.root}>"

    def __reduce__(self) -> Any:
        raise TypeError("a client holds connections and a key: make another one where it is needed")

    def _signing(self, seconds: float | None) -> tuple[tuple[str, str], ...]:
        """Return the query that asks for a signed address."""
        if seconds is None:
            return ()
        check_seconds("signed_for", seconds, most=LONGEST_LEASE_SECONDS)
        if self.use_server_proxy:
            raise ConfigError("signed_for", "be left out where sandboxes are reached through the server", seconds)
        return (("expires", str(ceil(self._transport.server_time() + seconds))),)

    def _fetch_endpoint(self, sandbox_id: str, port: int, *, query: Query = ()) -> Endpoint:
        """Ask for an endpoint once."""
        path = f"{sandbox_path(sandbox_id)}/endpoints/{port}"
        params = [("use_server_proxy", "true")] if self.use_server_proxy else list(query)
        answer = self._transport.request("GET", path, params=params)
        try:
            body = answer.json(max_bytes=_ENDPOINT_BYTES)
        except ProtocolError:
            # Without the text of the answer: it may hold what opens the sandbox.
            raise ProtocolError("an endpoint must be JSON, the server sent something else") from None
        return read_endpoint(
            body,
            sandbox_id=sandbox_id,
            port=port,
            root=self._transport.root,
            through_server=self.use_server_proxy,
        )
