"""The agent's operations on commands: run, interrupt and ping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal, overload

from pytest_opensandbox.client.command_result import BackgroundCommand, CommandResult
from pytest_opensandbox.client.command_run import MAX_STREAM_BYTES, Callback, CommandRequest, CommandRun
from pytest_opensandbox.client.event_stream import EventParser
from pytest_opensandbox.errors import ApiError, CommandLostError, CommandStartError, OpenSandboxError, TransportError
from pytest_opensandbox.transport.endpoints import Endpoint, path_segment
from pytest_opensandbox.transport.failures import has_no_sandbox
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.retry import check_seconds, time_limit
from pytest_opensandbox.transport.transport import Transport

_AGENT_ERROR = "RUNTIME_ERROR"
_STATUS_BYTES = 8 * 1024 * 1024  # the agent repeats the command, which may be long


class CommandsAPI:
    """The agent's operations on commands; part of the client."""

    _transport: Transport

    def ping(self, endpoint: Endpoint | str, *, timeout: float = 5.0) -> None:
        """Return when the agent answers.

        Args:
            endpoint: the agent.
            timeout: seconds for the connection and the answer together.

        Raises:
            ApiError: another server answers there.
            TransportError: no answer.

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
            shown_as: the command that errors and the result show where another is wrapped around it; default itself.

        Returns:
            The result with ``exact=False``: the agent sends lines, not bytes. So the final newline is missing, ``\r``
            ends a line, and bytes that are not UTF-8 are U+FFFD. ``timed_out`` says that the limit ended it.

        Raises:
            CommandStartError: the agent could not start it.
            CommandTimeoutError: the agent did not end it in time, so we did; holds what it had written.
            CommandLostError: the answer ended before the command did; it is not run again.
            ApiError: the agent refuses, for example a directory that does not exist.
            TransportError: the agent does not answer.
            ProtocolError: the agent's events break the specification.
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
            timeouts=self._transport.timeouts,
        )
        try:
            # The agent reports at once that a command in the background has begun. Another may run for as long as it
            # writes something.
            with time_limit(self._transport.timeouts.call_seconds if background else inf):
                return self._read_to_end(endpoint, run)
        except (CommandStartError, ApiError):
            raise
        except CommandLostError as exc:
            return self._resolve_lost(endpoint, run, exc)
        except BaseException:
            # No caller waits for the command any more, and closing the connection does not end it.
            self._interrupt_quietly(endpoint, run)
            raise

    def interrupt(self, endpoint: Endpoint | str, command_id: str) -> bool:
        """End a command and its children: SIGTERM, after 3 s SIGKILL.

        Args:
            endpoint: the agent.
            command_id: the agent's id of the command.

        Returns:
            Whether it was running.

        Raises:
            NotFoundError: no such sandbox.
            ApiError: the agent or a server before it refuses.
            TransportError: the agent does not answer within 10 s.

        Source: specs/execd-api.yaml, DELETE /command.
        """
        timeout = (self._transport.timeouts.agent_connect_seconds, self._transport.timeouts.interrupt_seconds)
        query = [("id", command_id)]
        try:
            with time_limit(sum(timeout)):
                self._transport.ask(endpoint, "DELETE", "/command", params=query, timeout=timeout).read()
        except ApiError as exc:
            # The agent answers 500 for a command that it does not know and for one that has ended.
            is_answer_of_agent = exc.status == 500 and exc.code == _AGENT_ERROR
            if not is_answer_of_agent and (exc.status != 404 or has_no_sandbox(exc)):
                raise
            return False
        return True

    def _read_to_end(self, endpoint: Endpoint | str, run: CommandRun) -> CommandResult:
        """Start a command, then read, parse and dispatch events until the one that ends it.

        The agent keeps the connection open for another second after that event.

        Raises:
            CommandStartError: the agent could not start it.
            CommandTimeoutError: its time limit and the grace have passed.
            CommandLostError: the answer ended before the command did.
            TransportError: no event came.
        """
        parser = EventParser()
        try:
            with self._start(endpoint, run) as answer:
                while piece := answer.read_some(run.read_seconds()):
                    for event in parser.feed(piece):
                        if result := run.add_event(event):
                            return result
                run.has_all_output = parser.is_between_events and answer.is_framed
                for event in parser.finish():
                    if result := run.add_event(event):
                        return result
        except TransportError as exc:
            if not run.command_id:
                raise
            if exc.timed_out:
                run.read_seconds()
            raise run.lost_error(f"the connection broke before it ended ({exc})") from exc
        if run.request.background and run.command_id:
            return run.background_result()
        raise run.lost_error("the answer ended before the command did")

    def _start(self, endpoint: Endpoint | str, run: CommandRun) -> Response:
        try:
            return self._transport.ask(
                endpoint,
                "POST",
                "/command",
                json=run.request.to_wire(),
                headers={"Accept": "text/event-stream"},
                timeout=(self._transport.timeouts.connect_seconds, run.read_seconds()),
            )
        except ApiError as exc:
            if exc.status == 500 and exc.code == _AGENT_ERROR:
                raise CommandStartError(run.request.name, why=exc.message, sandbox_id=run.sandbox_id) from exc
            raise

    def _resolve_lost(self, endpoint: Endpoint | str, run: CommandRun, error: CommandLostError) -> CommandResult:
        """Ask the agent for the status of a command whose last event did not come; end the command if it still runs.

        Agents before 1.0.18 drop the last event of one command in a hundred. What it wrote came before that.

        Raises:
            CommandLostError: its output may be incomplete, or the agent does not know how it ended.
        """
        timeout = (self._transport.timeouts.agent_connect_seconds, self._transport.timeouts.status_seconds)
        try:
            path = f"/command/status/{path_segment('command_id', run.command_id)}"
            with time_limit(self._transport.timeouts.ending_seconds):
                status = self._transport.ask(endpoint, "GET", path, timeout=timeout).json(max_bytes=_STATUS_BYTES)
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
        """Interrupt a command after a failure, which no second failure may hide."""
        try:
            if run.command_id:
                with time_limit(self._transport.timeouts.ending_seconds):
                    self.interrupt(endpoint, run.command_id)
        except OpenSandboxError:
            return
