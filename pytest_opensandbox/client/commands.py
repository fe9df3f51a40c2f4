"""What the agent inside a sandbox can be asked to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Literal, overload

from pytest_opensandbox.client.command_result import BackgroundCommand, CommandResult
from pytest_opensandbox.client.command_run import MAX_STREAM_BYTES, Callback, CommandRequest, CommandRun
from pytest_opensandbox.client.event_stream import EventParser
from pytest_opensandbox.client.sandbox_opts import check_seconds
from pytest_opensandbox.errors import ApiError, CommandLostError, CommandStartError, OpenSandboxError, TransportError
from pytest_opensandbox.transport.endpoints import Endpoint, path_segment
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.retry import time_limit
from pytest_opensandbox.transport.transport import Transport

FIRST_BYTE_SECONDS = 30.0
"""How long the agent may take to begin its answer; some runtimes accept a command and then say nothing."""
SILENCE_SECONDS = 20.0
"""How long it may say nothing after that; it sends a ping every 3 s."""
GRACE_SECONDS = 10.0
"""How long after its time limit a command is given up; the agent should have ended it before."""
ENDING_SECONDS = 5.0
"""How long it may take to end a command that was given up, or to learn what became of it."""

_INTERRUPT_TIMEOUTS = (2.0, 8.0)  # The agent waits 3 s between SIGTERM and SIGKILL before it answers.
_STATUS_TIMEOUTS = (2.0, 5.0)
_LEAST_SECONDS = 0.02
_STATUS_BYTES = 8 * 1024 * 1024  # the agent repeats the command, however long it is


class CommandsAPI:
    """The agent's operations on commands; part of the client."""

    _transport: Transport

    def ping(self, endpoint: Endpoint | str, *, timeout: float = 5.0) -> None:
        """Return if the agent answers.

        Args:
            endpoint: the agent.
            timeout: seconds for all of it.

        Raises:
            ApiError: something else answers there.
            TransportError: nothing does.

        Source: specs/execd-api.yaml, GET /ping.
        """
        check_seconds("timeout", timeout)
        connect = min(timeout, self._transport.timeouts.connect_seconds)
        with time_limit(timeout):
            self._transport.ask(endpoint, "GET", "/ping", timeout=(connect, timeout)).read(max_seconds=timeout)

    @overload
    def run_command(
        self,
        endpoint: Endpoint | str,
        command: str | Sequence[str],
        *,
        background: Literal[True],
        cwd: str | None = ...,
        timeout: float | None = ...,
        env: Mapping[str, str] | None = ...,
        uid: int | None = ...,
        gid: int | None = ...,
    ) -> BackgroundCommand: ...

    @overload
    def run_command(
        self,
        endpoint: Endpoint | str,
        command: str | Sequence[str],
        *,
        cwd: str | None = ...,
        timeout: float | None = ...,
        env: Mapping[str, str] | None = ...,
        uid: int | None = ...,
        gid: int | None = ...,
        background: bool = ...,
        on_stdout: Callback | None = ...,
        on_stderr: Callback | None = ...,
        max_bytes: int = ...,
        shown_as: str | Sequence[str] | None = ...,
    ) -> CommandResult: ...

    def run_command(
        self,
        endpoint: Endpoint | str,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        background: bool = False,
        on_stdout: Callback | None = None,
        on_stderr: Callback | None = None,
        max_bytes: int = MAX_STREAM_BYTES,
        shown_as: str | Sequence[str] | None = None,
    ) -> CommandResult:
        r"""Run a command and return when the agent says that it ended, without waiting for the connection to end.

        Args:
            endpoint: the agent.
            command: text for the sandbox's shell; a list is an argument list, of which no word meets the shell.
            cwd: working directory, which must exist; the agent expands ``~`` and ``$NAME`` in it.
            timeout: seconds until the agent kills it with its children; None for no limit.
            env: variables on top of the sandbox's own.
            uid: numeric user to run as.
            gid: numeric group to run as; needs ``uid``, whose number is the default.
            background: return as soon as it was started, with a ``BackgroundCommand``: its ``exit_code`` is None,
                ``ok`` is False, and its ``command_id`` is what the agent knows it by.
            on_stdout: called with each line as it comes, without its end; what it raises ends the command.
            on_stderr: as ``on_stdout``.
            max_bytes: most that is kept of each stream, the middle of a longer one is left out; bytes, > 0.
            shown_as: what errors and the result call the command, where it is wrapped in another; default itself.

        Returns:
            The result with ``exact=False``: the agent tells lines, not bytes. So the final newline is missing,
            ``\r`` ends a line, and bytes that are not UTF-8 are U+FFFD. ``timed_out`` says that the limit ended it.

        Raises:
            CommandStartError: the agent could not start it.
            CommandTimeoutError: the agent did not end it in time, so we did; holds what it had written.
            CommandLostError: the answer ended before the command did; it is not run again.
            ApiError: the agent refuses, for example a directory that does not exist.
            TransportError: the agent does not answer.
            ProtocolError: the agent's events are not what the specification promises.
            ConfigError: an argument breaks a rule.

        Source: specs/execd-api.yaml, POST /command; measured with execd 1.0.19.
        """
        request = CommandRequest(
            command=command,
            cwd=cwd,
            timeout=timeout,
            env=env,
            uid=uid,
            gid=gid,
            background=background,
            shown_as=shown_as,
        )
        run = CommandRun(
            request,
            sandbox_id=endpoint.sandbox_id if isinstance(endpoint, Endpoint) else "",
            max_bytes=max_bytes,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
        )
        return self._perform(endpoint, run)

    def interrupt(self, endpoint: Endpoint | str, command_id: str) -> bool:
        """End a command and its children: SIGTERM, after 3 s SIGKILL.

        Args:
            endpoint: the agent.
            command_id: the agent's id of the command.

        Returns:
            Whether it was running.

        Raises:
            ApiError: the agent refuses.
            TransportError: the agent does not answer within 10 s.

        Source: specs/execd-api.yaml, DELETE /command.
        """
        try:
            with time_limit(sum(_INTERRUPT_TIMEOUTS)):
                query = [("id", command_id)]
                self._transport.ask(endpoint, "DELETE", "/command", params=query, timeout=_INTERRUPT_TIMEOUTS).read()
        except ApiError as exc:
            # 500 is how the agent says that it knows no such command, or that it has ended.
            if exc.status in (404, 500):
                return False
            raise
        return True

    def _perform(self, endpoint: Endpoint | str, run: CommandRun) -> CommandResult:
        try:
            # One in the background has said all when it has begun; another may run for as long as it says something.
            with time_limit(self._transport.timeouts.call_seconds if run.request.background else inf):
                return self._follow(endpoint, run)
        except (CommandStartError, ApiError):
            raise
        except CommandLostError as exc:
            return self._resolve_lost(endpoint, run, exc)
        except BaseException:
            # Nobody waits for it any more, and closing the connection does not end it.
            self._interrupt_quietly(endpoint, run)
            raise

    def _follow(self, endpoint: Endpoint | str, run: CommandRun) -> CommandResult:
        limit = run.request.timeout

        def patience() -> float:
            silence = SILENCE_SECONDS if run.command_id else FIRST_BYTE_SECONDS
            if limit is None or run.request.background:
                return silence
            left = limit + GRACE_SECONDS - run.elapsed
            # A read that used up what was left of the time may end a moment before it.
            if left <= _LEAST_SECONDS:
                raise run.timeout_error(limit)
            return min(silence, left)

        try:
            answer = self._start(endpoint, run, patience())
            with answer:
                result = _until_end(run, answer.chunks(timeout=patience))
                run.has_all_output = run.has_all_output and answer.is_framed
        except TransportError as exc:
            if not run.command_id:
                raise
            if exc.timed_out:
                patience()
            raise run.lost_error(f"the connection broke before it ended ({exc})") from exc
        if result is None and run.request.background and run.command_id:
            return run.background_result()
        if result is None:
            raise run.lost_error("the answer ended before the command did")
        return result

    def _start(self, endpoint: Endpoint | str, run: CommandRun, seconds: float) -> Response:
        try:
            return self._transport.ask(
                endpoint,
                "POST",
                "/command",
                json=run.request.to_wire(),
                headers={"Accept": "text/event-stream"},
                timeout=(self._transport.timeouts.connect_seconds, seconds),
            )
        except ApiError as exc:
            if exc.status == 500 and exc.code == "RUNTIME_ERROR":
                raise CommandStartError(run.request.name, why=exc.message, sandbox_id=run.sandbox_id) from exc
            raise

    def _resolve_lost(self, endpoint: Endpoint | str, run: CommandRun, error: CommandLostError) -> CommandResult:
        """Ask the agent what became of a command whose end it did not tell; one that still runs is ended.

        Agents before 1.0.18 drop the last event of one command in a hundred. What it wrote came before that.

        Raises:
            CommandLostError: its output may be incomplete, or the agent does not know how it ended.
        """
        try:
            path = f"/command/status/{path_segment('command_id', run.command_id)}"
            with time_limit(ENDING_SECONDS):
                status = self._transport.ask(endpoint, "GET", path, timeout=_STATUS_TIMEOUTS).json(
                    max_bytes=_STATUS_BYTES
                )
        except OpenSandboxError:
            status = None
        if not isinstance(status, dict) or status.get("running") is not False:
            self._interrupt_quietly(endpoint, run)
            raise error from None
        if result := run.result_from_status(status.get("exit_code"), status.get("error")):
            return result
        known = f"{error}; the agent says that it exited with {status.get('exit_code')}, its output may be incomplete"
        raise CommandLostError(known, command_id=run.command_id, sandbox_id=run.sandbox_id) from None

    def _interrupt_quietly(self, endpoint: Endpoint | str, run: CommandRun) -> None:
        """Interrupt on the way out of a failure, which must not be hidden by another."""
        try:
            if run.command_id:
                with time_limit(ENDING_SECONDS):
                    self.interrupt(endpoint, run.command_id)
        except OpenSandboxError:
            return


def _until_end(run: CommandRun, chunks: Iterator[bytes]) -> CommandResult | None:
    """Take in events until the one that ends the command; the agent keeps the connection open for another second."""
    parser = EventParser()
    for chunk in chunks:
        for event in parser.feed(chunk):
            if result := run.add_event(event):
                return result
    run.has_all_output = parser.is_between_events
    for event in parser.finish():
        if result := run.add_event(event):
            return result
    return None
