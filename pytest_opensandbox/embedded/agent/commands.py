"""Commands: run in the foreground as events or in the background, and looked up, read and interrupted by id."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from . import events, http, paths, processes
from .events import follow
from .http import BAD_BODY, FAILED, JsonObject, RefusedError, Request, Response
from .processes import CommandSpec, SpawnError, WatchedProcess

KEPT_OUTPUTS = 200
"""Background commands whose output can be read at a time; of those that have ended the oldest go first."""
_IDS = range(2**32)


class Command:
    """What is known about one command.

    Args:
        content: the command as one text.

    Attributes:
        started_at: nanoseconds since the epoch.
        process: its process; None when it could not be started.
        error: why it could not be started.
        output: both streams of a background command; None in the foreground, and when it is no longer kept.
    """

    def __init__(self, content: str) -> None:
        self.id = os.urandom(16).hex()
        self.content = content
        self.started_at = time.time_ns()
        self.process: WatchedProcess | None = None
        self.error = ""
        self.output: BinaryIO | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process is still there."""
        return self.process is not None and not self.process.ended.is_set()

    def status(self) -> dict[str, Any]:
        """Return the body of ``GET /command/status``."""
        is_running = self.is_running
        status: dict[str, Any] = {"id": self.id, "content": self.content, "running": is_running}
        status["started_at"] = http.timestamp(self.started_at)
        if not is_running:
            process = self.process
            status["exit_code"] = process.exit_code if process else 255
            status["finished_at"] = http.timestamp(process.finished_at if process else self.started_at)
            if error := process.error if process else self.error:
                status["error"] = error
        return status


class Commands:
    """The commands of one agent.

    Args:
        linger_seconds: how long an event stream stays open after its last event.
    """

    def __init__(self, linger_seconds: float = 0.0) -> None:
        self._linger_seconds = linger_seconds
        self._commands: dict[str, Command] = {}
        self._kept: list[Command] = []
        self._lock = threading.Lock()
        self._streams = threading.BoundedSemaphore(most_streams())

    def run(self, request: Request) -> Response:
        """Answer ``POST /command`` with a stream of events.

        Raises:
            RefusedError: 400, the request cannot be carried out as it stands.
            OSError: the agent cannot start anything now.
        """
        spec, timeout, is_background = request.read_json(_command_fields)
        _check(spec, timeout)
        seconds = timeout / 1000 if timeout else None
        with http.missing_file_fails():
            return http.stream(self._background(spec, seconds) if is_background else self._foreground(spec, seconds))

    def interrupt(self, identifier: str) -> bool:
        """Stop a command; return False when there is none of that id.

        Raises:
            RefusedError: 500, it has ended already.
        """
        command = self._commands.get(identifier)
        if command is None:
            return False
        if command.process is None or not command.is_running:
            raise RefusedError(500, FAILED, f"command {identifier} is not running")
        command.process.interrupt()
        return True

    def status(self, request: Request, identifier: str) -> Response:
        """Answer ``GET /command/status/{id}``.

        Raises:
            RefusedError: 404, no such command.
        """
        command = self._commands.get(identifier)
        if command is None:
            raise RefusedError(404, BAD_BODY, f"command not found: {identifier}")
        return http.json_response(command.status())

    def logs(self, request: Request, identifier: str) -> Response:
        """Answer ``GET /command/{id}/logs``: the output from a byte offset on, and the offset to go on from.

        Raises:
            RefusedError: 400, no such command, not in the background, or a negative offset.
        """
        command = self._commands.get(identifier)
        if command is None:
            raise RefusedError(400, BAD_BODY, f"command not found: {identifier}")
        if command.output is None:
            raise RefusedError(400, BAD_BODY, f"command {identifier} is not running in background")
        cursor = request.number("cursor") or 0
        if cursor < 0:
            raise RefusedError(400, BAD_BODY, "cursor must not be negative")
        end = max(cursor, os.fstat(command.output.fileno()).st_size)
        headers = {
            "Content-Type": http.TEXT_TYPE,
            "Content-Length": str(end - cursor),
            "EXECD-COMMANDS-TAIL-CURSOR": str(end),
        }
        return Response(_between(command.output, cursor, end), 200, headers)

    def _foreground(self, spec: CommandSpec, seconds: float | None) -> Iterator[bytes]:
        if not self._streams.acquire(blocking=False):
            raise OSError(f"more than {most_streams()} commands at the same time")
        outputs: list[BinaryIO] = []
        try:
            outputs = [scratch_file(), scratch_file()]
            command = self._start(spec, seconds, *outputs)
        except BaseException:
            self._release(outputs)
            raise
        return self._foreground_events(command, outputs)

    def _foreground_events(self, command: Command, outputs: list[BinaryIO]) -> Iterator[bytes]:
        try:
            yield events.init(command.id) + events.ping()
            if command.process is None:
                yield events.error(command.error, command.error)
            else:
                yield from follow(command.process, command.started_at, *outputs)
            time.sleep(self._linger_seconds)
        finally:
            self._release(outputs)

    def _release(self, outputs: list[BinaryIO]) -> None:
        for output in outputs:
            output.close()
        self._streams.release()

    def _background(self, spec: CommandSpec, seconds: float | None) -> Iterator[bytes]:
        output = scratch_file()
        command = self._start(spec, seconds, output, output, kills_group=True)
        command.output = output
        self._keep(command)
        return self._background_events(command)

    def _background_events(self, command: Command) -> Iterator[bytes]:
        yield events.init(command.id) + events.ping()
        if command.process is None:
            yield RefusedError(500, FAILED, f"the command could not be started: {command.error}").body()
            return
        yield events.complete((time.time_ns() - command.started_at) // 1_000_000)
        time.sleep(self._linger_seconds)

    def _start(
        self, spec: CommandSpec, seconds: float | None, stdout: BinaryIO, stderr: BinaryIO, *, kills_group: bool = False
    ) -> Command:
        command = Command(spec.content)
        try:
            process = processes.start(spec, stdout, stderr)
        except SpawnError as exc:
            command.error = str(exc)
        else:
            command.process = WatchedProcess(process, timeout_seconds=seconds, kills_group=kills_group)
        # ExecD remembers a background command that could not be started, but not one in the foreground.
        if command.process or kills_group:
            self._commands[command.id] = command
        return command

    def _keep(self, command: Command) -> None:
        with self._lock:
            self._kept.append(command)
            if len(self._kept) <= KEPT_OUTPUTS:
                return
            oldest = next((kept for kept in self._kept if not kept.is_running), None)
            if oldest is not None:
                self._kept.remove(oldest)
                oldest.output = None


def most_streams() -> int:
    """Return how many commands may run in the foreground at a time: each needs three open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    available = 65_536 if soft == resource.RLIM_INFINITY else soft
    return max(8, min(1000, (available - KEPT_OUTPUTS - 128) // 3))


def scratch_file() -> BinaryIO:
    """Return a new file that no listing shows and that goes when the last process closes it."""
    os.makedirs(tempfile.gettempdir(), exist_ok=True)
    return tempfile.TemporaryFile(buffering=0)


def _command_fields(value: Any) -> tuple[CommandSpec, int | None, bool]:
    fields = JsonObject(value)
    spec = CommandSpec(
        command=fields.text("command"),
        argv=fields.texts("argv"),
        cwd=fields.text("cwd"),
        envs=fields.mapping("envs"),
        uid=fields.number("uid", _IDS),
        gid=fields.number("gid", _IDS),
    )
    return spec, fields.number("timeout"), fields.flag("background")


def _check(spec: CommandSpec, timeout: int | None) -> None:
    """Refuse what cannot be run."""
    rules = {
        "command or argv is required": spec.command or spec.argv,
        "timeout must not be negative": timeout is None or timeout >= 0,
        "command and argv exclude each other": not (spec.command and spec.argv),
        "argv[0] is empty": not spec.argv or spec.argv[0],
        "gid needs a uid": spec.gid is None or spec.uid is not None,
    }
    wrong = [rule for rule, is_kept in rules.items() if not is_kept] or [paths.invalid_directory(spec.cwd)]
    if any(wrong):
        raise RefusedError(400, BAD_BODY, "; ".join(wrong))
    processes.check_identity(spec.uid, spec.gid)


def _between(file: BinaryIO, position: int, end: int) -> Iterator[bytes]:
    while position < end:
        data = os.pread(file.fileno(), min(65_536, end - position), position)
        if not data:
            return
        position += len(data)
        yield data
