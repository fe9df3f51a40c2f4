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
from .http import BAD_BODY, Fields, RefusedError, Request, Response
from .processes import CommandSpec, SpawnError, WatchedProcess

KEPT_OUTPUTS = 200
"""Background commands whose output can be read at a time; of those that have ended the oldest go first."""

_RUN_FAILED = "error running commands "


class Record:
    """What is known about one command.

    Args:
        content: the command as one text.

    Attributes:
        started_at: nanoseconds since the epoch.
        child: its process; None when it could not be started.
        error: why it could not be started.
        output: both streams of a background command; None in the foreground, and when it is no longer kept.
    """

    def __init__(self, content: str) -> None:
        self.id = os.urandom(16).hex()
        self.content = content
        self.started_at = time.time_ns()
        self.child: WatchedProcess | None = None
        self.error = ""
        self.output: BinaryIO | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process is still there."""
        return self.child is not None and not self.child.ended.is_set()

    def status(self) -> dict[str, Any]:
        """Return what ``GET /command/status`` tells."""
        told: dict[str, Any] = {"id": self.id, "content": self.content, "running": self.is_running}
        if told["running"]:
            return {**told, "started_at": http.timestamp(self.started_at)}
        child = self.child
        told["exit_code"] = child.exit_code if child else 255
        error = child.error if child else self.error
        if error:
            told["error"] = error
        told["started_at"] = http.timestamp(self.started_at)
        told["finished_at"] = http.timestamp(child.finished_at if child else self.started_at)
        return told


class Commands:
    """The commands of one agent.

    Args:
        linger_seconds: how long an event stream stays open after its last event.
    """

    def __init__(self, linger_seconds: float = 0.0) -> None:
        self._linger_seconds = linger_seconds
        self._records: dict[str, Record] = {}
        self._kept: list[Record] = []
        self._lock = threading.Lock()
        self._streams = threading.BoundedSemaphore(most_streams())

    def run(self, request: Request) -> Response:
        """Answer ``POST /command`` with a stream of events.

        Raises:
            RefusedError: 400, the request cannot be carried out as it stands; 500, the agent cannot start anything now.
        """
        wish, timeout, is_background = request.checked(_wish, "error parsing request, MAYBE invalid body format. ")
        _check(wish, timeout)
        seconds = timeout / 1000 if timeout else None
        try:
            frames = self._background(wish, seconds) if is_background else self._foreground(wish, seconds)
        except (OSError, paths.UnusablePathError) as exc:
            raise RefusedError(500, "RUNTIME_ERROR", f"{_RUN_FAILED}{exc}") from exc
        return http.stream(frames)

    def interrupt(self, identifier: str) -> bool:
        """Stop a command; return False when there is none of that id.

        Raises:
            RefusedError: 500, it has ended already.
        """
        record = self._records.get(identifier)
        if record is None:
            return False
        if record.child is None or not record.is_running:
            text = f"error interruptting code context. command session {identifier} is not running"
            raise RefusedError(500, "RUNTIME_ERROR", text)
        record.child.interrupt()
        return True

    def status(self, request: Request, identifier: str) -> Response:
        """Answer ``GET /command/status/{id}``.

        Raises:
            RefusedError: 404, no such command.
        """
        record = self._records.get(identifier)
        if record is None:
            raise RefusedError(404, BAD_BODY, f"command not found: {identifier}")
        return http.json_answer(record.status())

    def logs(self, request: Request, identifier: str) -> Response:
        """Answer ``GET /command/{id}/logs``: the output from a byte offset on, and the offset to go on from.

        Raises:
            RefusedError: 400, no such command, not in the background, or a negative offset.
        """
        record = self._records.get(identifier)
        if record is None:
            raise RefusedError(400, BAD_BODY, f"command not found: {identifier}")
        if record.output is None:
            raise RefusedError(400, BAD_BODY, f"command {identifier} is not running in background")
        cursor = request.number("cursor") or 0
        if cursor < 0:
            raise RefusedError(400, BAD_BODY, "error seek file: invalid argument")
        end = max(cursor, os.fstat(record.output.fileno()).st_size)
        headers = {
            "Content-Type": http.TEXT_TYPE,
            "Content-Length": str(end - cursor),
            "EXECD-COMMANDS-TAIL-CURSOR": str(end),
        }
        return Response(_between(record.output, cursor, end), 200, headers)

    def _foreground(self, wish: CommandSpec, seconds: float | None) -> Iterator[bytes]:
        if not self._streams.acquire(blocking=False):
            raise OSError(f"more than {most_streams()} commands at the same time")
        outputs: list[BinaryIO] = []
        try:
            outputs = [scratch_file(), scratch_file()]
            record = self._start(wish, seconds, *outputs)
        except BaseException:
            self._forget(outputs)
            raise
        return self._streamed(record, outputs)

    def _streamed(self, record: Record, outputs: list[BinaryIO]) -> Iterator[bytes]:
        try:
            yield events.init(record.id) + events.ping()
            if record.child is None:
                yield events.error(record.error, record.error)
            else:
                yield from follow(record.child, record.started_at, *outputs)
            time.sleep(self._linger_seconds)
        finally:
            self._forget(outputs)

    def _forget(self, outputs: list[BinaryIO]) -> None:
        for output in outputs:
            output.close()
        self._streams.release()

    def _background(self, wish: CommandSpec, seconds: float | None) -> Iterator[bytes]:
        output = scratch_file()
        record = self._start(wish, seconds, output, output, kills_group=True)
        record.output = output
        self._keep(record)
        return self._announced(record)

    def _announced(self, record: Record) -> Iterator[bytes]:
        yield events.init(record.id) + events.ping()
        if record.child is None:
            yield RefusedError(500, "RUNTIME_ERROR", f"{_RUN_FAILED}failed to start commands: {record.error}").body()
            return
        yield events.complete((time.time_ns() - record.started_at) // 1_000_000)
        time.sleep(self._linger_seconds)

    def _start(
        self, wish: CommandSpec, seconds: float | None, stdout: BinaryIO, stderr: BinaryIO, *, kills_group: bool = False
    ) -> Record:
        record = Record(wish.content)
        try:
            process = processes.start(wish, stdout, stderr)
        except SpawnError as exc:
            record.error = str(exc)
        else:
            record.child = WatchedProcess(process, timeout_seconds=seconds, kills_group=kills_group)
        # ExecD remembers a background command that could not be started, but not one in the foreground.
        if record.child or kills_group:
            self._records[record.id] = record
        return record

    def _keep(self, record: Record) -> None:
        with self._lock:
            self._kept.append(record)
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


def _wish(value: Any) -> tuple[CommandSpec, int | None, bool]:
    fields = Fields(value, "RunCommandRequest")
    wish = CommandSpec(
        command=fields.text("command"),
        argv=fields.texts("argv") or [],
        cwd=fields.text("cwd"),
        envs=fields.mapping("envs"),
        uid=fields.number("uid", "uint32"),
        gid=fields.number("gid", "uint32"),
    )
    return wish, fields.number("timeout"), fields.flag("background")


def _check(wish: CommandSpec, timeout: int | None) -> None:
    """Refuse what cannot be run, with the texts of ExecD."""
    wrong = []
    if not wish.command and not wish.argv:
        wrong.append(http.invalid_field("RunCommandRequest", "Command", "required"))
    if timeout is not None and timeout < 0:
        wrong.append(http.invalid_field("RunCommandRequest", "TimeoutMs", "gte"))
    if wish.command and wish.argv:
        wrong.append("command and argv exclude each other")
    if wish.argv and not wish.argv[0]:
        wrong.append("argv[0] is empty")
    if not wrong and wish.gid is not None and wish.uid is None:
        wrong.append("uid is required when gid is provided")
    text = "\n".join(wrong) or paths.invalid_directory(wish.cwd)
    if text:
        raise RefusedError(400, BAD_BODY, f"invalid request, validation error {text}")
    processes.check_identity(wish.uid, wish.gid)


def _between(file: BinaryIO, position: int, end: int) -> Iterator[bytes]:
    while position < end:
        data = os.pread(file.fileno(), min(65_536, end - position), position)
        if not data:
            return
        position += len(data)
        yield data
