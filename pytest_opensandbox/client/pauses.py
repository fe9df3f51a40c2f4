"""When a sandbox is paused: at once on Docker, and on Kubernetes some time after it was asked for."""

from __future__ import annotations

from collections.abc import Callable

from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.errors import ApiError, PauseError, SandboxFailedError, TransportError
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.deadlines import time_limit
from pytest_opensandbox.transport.refusals import may_pass
from pytest_opensandbox.transport.retry import poll_until_ready

PAUSE_SECONDS = 300.0
"""How long a sandbox may take to become paused; Kubernetes stores its file system as an image meanwhile."""

_LAST_ANSWER_SECONDS = 0.25
_ON_THE_WAY = "Pausing"


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
