"""Waits until commands can run in a sandbox, and until a sandbox is paused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import (
    ApiError,
    AuthError,
    OpenSandboxError,
    PauseError,
    ReadyTimeoutError,
    SandboxFailedError,
    TransportError,
)
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.failures import is_transient
from pytest_opensandbox.transport.retry import poll_until_ready, time_limit
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, Timeouts

LOG_TAIL_CHARACTERS = 4_000
"""Most that an error shows of a sandbox's logs."""
PAUSE_SECONDS = 300.0
"""How long a sandbox may take to become paused; Kubernetes stores its file system as an image meanwhile."""

_LEAST_SECONDS = 0.25
_PAUSING = "Pausing"


@dataclass(frozen=True, kw_only=True)
class ReadinessProbes:
    """The requests that find out whether a sandbox is ready; each is sent once."""

    state: Callable[[], SandboxResponse]
    """Asks the server for the sandbox."""
    endpoint: Callable[[], Endpoint]
    """Asks the server for the address of the agent."""
    ping: Callable[[Endpoint, float], None]
    """Asks the agent whether it answers; takes its time limit in seconds."""
    logs: Callable[[], str]
    """Asks the server for the sandbox's log."""


class ReadyWait:
    """One wait for a sandbox to run, for its agent to have an address, and for the agent to answer there.

    Args:
        sandbox_id: the sandbox.
        probes: the requests to send.
        known: what the server has said of the sandbox already; it saves the first request for the state.
        timeouts: limits of the pings, and of an address that does not answer.
    """

    def __init__(
        self,
        sandbox_id: str,
        probes: ReadinessProbes,
        *,
        known: SandboxResponse | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._probes = probes
        self._known = known
        self._timeouts = timeouts
        self._endpoint: Endpoint | None = None
        self._last_state = known.state if known else ""
        self._last_error = ""
        self._ping_seconds = timeouts.first_ping_seconds
        self._address_is_stale_at = 0.0
        self._deadline = 0.0

    def wait(self, timeout: float) -> tuple[SandboxResponse, Endpoint]:
        """Return the sandbox and its agent as soon as commands can run.

        Args:
            timeout: one budget for all requests and waits; seconds.

        Raises:
            SandboxFailedError: the sandbox ended.
            ReadyTimeoutError: the budget is used up; says what was wrong at the last poll.
            ApiError: no retry helps, as with a wrong key or a sandbox that does not exist.
        """
        self._deadline = monotonic() + timeout
        # An answer whose bytes come one by one may take many times as long as the silence that is allowed.
        with time_limit(timeout + _LEAST_SECONDS):
            return poll_until_ready(
                self._poll, budget_seconds=timeout, on_timeout=self._timeout_error, timeouts=self._timeouts
            )

    def _poll(self) -> tuple[SandboxResponse, Endpoint] | None:
        try:
            sandbox = self._get_state()
            if not sandbox.is_running:
                self._endpoint = None
                self._last_error = sandbox.why
                return None
            if self._endpoint is None or monotonic() > self._address_is_stale_at:
                self._endpoint = self._find_agent()
                self._address_is_stale_at = monotonic() + self._timeouts.address_seconds
        except (ApiError, TransportError) as exc:
            if not is_transient(exc):
                raise
            self._last_error = str(exc)
            return None
        return (sandbox, self._endpoint) if self._ping(self._endpoint) else None

    def _get_state(self) -> SandboxResponse:
        """Return the state; asked for at every poll but the first, for a server calls Running what ends at once."""
        sandbox, self._known = self._known or self._probes.state(), None
        self._last_state = sandbox.state
        self._check_alive(sandbox)
        return sandbox

    def _check_alive(self, sandbox: SandboxResponse) -> None:
        if sandbox.is_final:
            raise SandboxFailedError(
                sandbox_id=self._sandbox_id,
                state=sandbox.state,
                reason=sandbox.reason,
                message=sandbox.message,
                logs=self._get_logs(),
            )

    def _find_agent(self) -> Endpoint:
        try:
            return self._probes.endpoint()
        except ApiError as exc:
            # Docker takes the ports from a container that has ended, and the server answers 500 because of that.
            if exc.status == 500:
                self._check_alive(self._probes.state())
            raise

    def _ping(self, endpoint: Endpoint) -> bool:
        """Return whether the agent answers; each silence doubles the time that the next ping may take."""
        try:
            self._probes.ping(endpoint, min(self._seconds_left(), self._ping_seconds))
        except AuthError:
            raise
        except ApiError as exc:
            self._last_error = f"its agent does not answer: {exc}"
            return False
        except TransportError as exc:
            if exc.timed_out:
                self._ping_seconds = min(2 * self._ping_seconds, self._timeouts.ping_seconds)
            self._last_error = (
                f"its agent does not answer: {exc}; if {endpoint.host} cannot be reached from here, use"
                " --opensandbox-server-proxy, or set eip or docker.host_ip in the server's configuration"
            )
            return False
        return True

    def _seconds_left(self) -> float:
        """Return what is left of the budget, but always enough for an answer from a server nearby."""
        return max(self._deadline - monotonic(), _LEAST_SECONDS)

    def _get_logs(self) -> str:
        try:
            return self._probes.logs()[-LOG_TAIL_CHARACTERS:]
        except OpenSandboxError:
            return ""

    def _timeout_error(self, waited: float, attempts: int) -> ReadyTimeoutError:
        return ReadyTimeoutError(
            sandbox_id=self._sandbox_id,
            waited_seconds=waited,
            attempts=attempts,
            last_state=self._last_state,
            last_error=self._last_error,
        )


class PauseWait:
    """One wait for a sandbox to be paused: at once on Docker, some time after the request on Kubernetes.

    Args:
        sandbox_id: the sandbox.
        get_state: asks the server once for the sandbox.
        timeouts: the waits between two polls.
    """

    def __init__(
        self, sandbox_id: str, get_state: Callable[[], SandboxResponse], *, timeouts: Timeouts = DEFAULT_TIMEOUTS
    ) -> None:
        self._sandbox_id = sandbox_id
        self._get_state = get_state
        self._timeouts = timeouts
        self._last = SandboxResponse(sandbox_id, "")
        self._last_error = ""

    def wait(self, timeout: float) -> SandboxResponse:
        """Return the sandbox as soon as it is paused.

        Args:
            timeout: one budget for all requests and waits; seconds.

        Raises:
            PauseError: the sandbox runs again instead, or the budget is used up.
            SandboxFailedError: the sandbox ended.
            ApiError: no retry helps.

        Source: docs/pause-resume.md: from Running by Pausing to Paused; a pause that fails leads to Running or Failed.
        """
        # An answer whose bytes come one by one may take many times as long as the silence that is allowed.
        with time_limit(timeout + _LEAST_SECONDS):
            return poll_until_ready(
                self._poll, budget_seconds=timeout, on_timeout=self._timeout_error, timeouts=self._timeouts
            )

    def _poll(self) -> SandboxResponse | None:
        before = self._last.state
        try:
            self._last = now = self._get_state()
        except (ApiError, TransportError) as exc:
            if not is_transient(exc):
                raise
            self._last_error = str(exc)
            return None
        if now.is_final:
            raise SandboxFailedError(sandbox_id=now.id, state=now.state, reason=now.reason, message=now.message)
        if before == _PAUSING and now.is_running:
            raise PauseError(now.id, f"was not paused, it runs again ({now.why or 'no reason given'})", state=now.state)
        return now if now.is_paused else None

    def _timeout_error(self, waited: float, attempts: int) -> PauseError:
        facts = [f"last state {self._last.state or 'unknown'}", self._last.why, self._last_error]
        said = "; ".join(filter(None, facts))
        why = f"was not paused after {waited:.1f} s and {counted(attempts, 'poll')} ({said}); raise timeout="
        return PauseError(self._sandbox_id, why, state=self._last.state)
