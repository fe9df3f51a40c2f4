"""When a sandbox is ready: it runs, its agent has an address, and the agent answers there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pytest_opensandbox.errors import (
    ApiError,
    AuthError,
    OpenSandboxError,
    ReadyTimeoutError,
    SandboxFailedError,
    TransportError,
)
from pytest_opensandbox.models import Endpoint, SandboxResponse
from pytest_opensandbox.waits import poll_until_ready

FIRST_PING_SECONDS = 0.5
"""How long the first ping may take, so that a sandbox that dies at once is noticed at once; each silence doubles it."""
PING_SECONDS = 2.0
"""How long any ping may take."""
LOG_TAIL_CHARACTERS = 4_000
"""Most that an error shows of a sandbox's logs."""

# 409: between two looks the state has changed; the next look at it tells more.
_PASSING_STATUSES = frozenset({409, 429, 502, 503, 504})
_LEAST_SECONDS = 0.25
_NO_ADDRESS_YET = "POD_IP_NOT_AVAILABLE"


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How to look at one sandbox; each asks once and takes the seconds that it may last."""

    state: Callable[[float], SandboxResponse]
    """Asks the server for its state."""
    endpoint: Callable[[float], Endpoint]
    """Asks the server where its agent is."""
    ping: Callable[[Endpoint, float], None]
    """Asks the agent whether it is there."""
    logs: Callable[[], str]
    """Asks the server for its logs."""


class ReadyWait:
    """One wait for one sandbox.

    Args:
        sandbox_id: the sandbox.
        looks: how to look at it.
        known: what is known of it already, which saves asking for its state at the first look.
    """

    def __init__(self, sandbox_id: str, looks: Looks, *, known: SandboxResponse | None = None) -> None:
        self._sandbox_id = sandbox_id
        self._looks = looks
        self._known = known
        self._endpoint: Endpoint | None = None
        self._last_state = known.state if known else ""
        self._last_error = ""
        self._ping_seconds = FIRST_PING_SECONDS
        self._deadline = 0.0

    def wait(self, timeout: float) -> tuple[SandboxResponse, Endpoint]:
        """Return the sandbox and its agent as soon as commands can run.

        Args:
            timeout: one budget for everything; seconds.

        Raises:
            SandboxFailedError: it ended.
            ReadyTimeoutError: the budget is used up; says what was wrong at the last look.
            ApiError: no retry helps, as with a wrong key or a sandbox that does not exist.
        """
        self._deadline = time.monotonic() + timeout
        return poll_until_ready(self._look, budget_seconds=timeout, on_timeout=self._timed_out)

    def _look(self) -> tuple[SandboxResponse, Endpoint] | None:
        try:
            sandbox = self._state()
            if not sandbox.is_running:
                return None
            if self._endpoint is None:
                self._endpoint = self._find_agent()
        except (ApiError, TransportError) as exc:
            if not _may_pass(exc):
                raise
            self._last_error = str(exc)
            return None
        return (sandbox, self._endpoint) if self._answers(self._endpoint) else None

    def _state(self) -> SandboxResponse:
        """Return the state, asked for at every look but the first: a server says Running of what dies at once."""
        sandbox, self._known = self._known or self._looks.state(self._left()), None
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
                logs=self._logs(),
            )

    def _find_agent(self) -> Endpoint:
        try:
            return self._looks.endpoint(self._left())
        except ApiError as exc:
            # Docker takes the ports from a container that has ended, and the server stumbles over that.
            if exc.status == 500:
                self._check_alive(self._looks.state(self._left()))
            raise

    def _answers(self, endpoint: Endpoint) -> bool:
        try:
            self._looks.ping(endpoint, min(self._left(), self._ping_seconds))
        except AuthError:
            raise
        except ApiError as exc:
            self._last_error = f"its agent does not answer: {exc}"
            return False
        except TransportError as exc:
            if exc.timed_out:
                self._ping_seconds = min(2 * self._ping_seconds, PING_SECONDS)
            self._last_error = (
                f"its agent does not answer: {exc}; if {endpoint.host} cannot be reached from here, use"
                " --opensandbox-server-proxy, or set eip or docker.host_ip in the server's configuration"
            )
            return False
        return True

    def _left(self) -> float:
        """Return what is left of the budget; seconds, and enough for an answer from nearby."""
        return max(self._deadline - time.monotonic(), _LEAST_SECONDS)

    def _logs(self) -> str:
        try:
            return self._looks.logs()[-LOG_TAIL_CHARACTERS:]
        except OpenSandboxError:
            return ""

    def _timed_out(self, waited: float, attempts: int) -> ReadyTimeoutError:
        return ReadyTimeoutError(
            sandbox_id=self._sandbox_id,
            waited_seconds=waited,
            attempts=attempts,
            last_state=self._last_state,
            last_error=self._last_error,
        )


def _may_pass(error: ApiError | TransportError) -> bool:
    if isinstance(error, TransportError):
        return True
    return error.status in _PASSING_STATUSES or error.code.endswith(_NO_ADDRESS_YET)
