"""Waits until a sandbox can run commands, and until it is paused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pytest_opensandbox.client.models import SandboxResponse
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
from pytest_opensandbox.transport.failures import may_pass
from pytest_opensandbox.transport.retry import poll_until_ready, time_limit

FIRST_PING_SECONDS = 0.5
"""How long the first ping may take, so that a sandbox that dies at once is noticed at once; each silence doubles it."""
PING_SECONDS = 2.0
"""How long any ping may take."""
ADDRESS_SECONDS = 2.0
"""How long an agent's address is tried before the server is asked for it again: Kubernetes moves what it restarts."""
LOG_TAIL_CHARACTERS = 4_000
"""Most that an error shows of a sandbox's logs."""

_LEAST_SECONDS = 0.25

PAUSE_SECONDS = 300.0
"""How long a sandbox may take to become paused; Kubernetes stores its file system as an image meanwhile."""

_LAST_ANSWER_SECONDS = 0.25
_ON_THE_WAY = "Pausing"


@dataclass(frozen=True, kw_only=True)
class ReadinessProbes:
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

    def __init__(self, sandbox_id: str, looks: ReadinessProbes, *, known: SandboxResponse | None = None) -> None:
        self._sandbox_id = sandbox_id
        self._looks = looks
        self._known = known
        self._endpoint: Endpoint | None = None
        self._last_state = known.state if known else ""
        self._last_error = ""
        self._ping_seconds = FIRST_PING_SECONDS
        self._address_is_stale_at = 0.0
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
        # An answer that drips may take many times as long as the silence that a look allows for.
        with time_limit(timeout + _LEAST_SECONDS):
            return poll_until_ready(self._look, budget_seconds=timeout, on_timeout=self._timed_out)

    def _look(self) -> tuple[SandboxResponse, Endpoint] | None:
        try:
            sandbox = self._state()
            if not sandbox.is_running:
                self._endpoint = None
                self._last_error = sandbox.why
                return None
            if self._endpoint is None or time.monotonic() > self._address_is_stale_at:
                self._endpoint = self._find_agent()
                self._address_is_stale_at = time.monotonic() + ADDRESS_SECONDS
        except (ApiError, TransportError) as exc:
            if not may_pass(exc):
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


class PauseWait:
    """One wait for one sandbox.

    Args:
        sandbox_id: the sandbox.
        look: asks the server once for its state.
    """

    def __init__(self, sandbox_id: str, look: Callable[[], SandboxResponse]) -> None:
        self._sandbox_id = sandbox_id
        self._ask = look
        self._last = SandboxResponse(sandbox_id, "")
        self._last_error = ""

    def wait(self, timeout: float) -> SandboxResponse:
        """Return the sandbox as soon as it is paused.

        Args:
            timeout: one budget for everything; seconds.

        Raises:
            PauseError: it runs again instead, or the budget is used up.
            SandboxFailedError: it ended.
            ApiError: no retry helps.

        Source: docs/pause-resume.md: from Running by Pausing to Paused; a pause that fails leads to Running or Failed.
        """
        # An answer that drips may take many times as long as the silence that a look allows for.
        with time_limit(timeout + _LAST_ANSWER_SECONDS):
            return poll_until_ready(self._look, budget_seconds=timeout, on_timeout=self._timed_out)

    def _look(self) -> SandboxResponse | None:
        before = self._last.state
        try:
            self._last = box = self._ask()
        except (ApiError, TransportError) as exc:
            if not may_pass(exc):
                raise
            self._last_error = str(exc)
            return None
        if box.is_final:
            raise SandboxFailedError(sandbox_id=box.id, state=box.state, reason=box.reason, message=box.message)
        if before == _ON_THE_WAY and box.is_running:
            raise PauseError(box.id, f"was not paused, it runs again ({box.why or 'no reason given'})", state=box.state)
        return box if box.is_paused else None

    def _timed_out(self, waited: float, attempts: int) -> PauseError:
        facts = [f"last state {self._last.state or 'unknown'}", self._last.why, self._last_error]
        said = "; ".join(filter(None, facts))
        why = f"was not paused after {waited:.1f} s and {counted(attempts, 'look')} ({said}); raise timeout="
        return PauseError(self._sandbox_id, why, state=self._last.state)
