"""Bash sessions: each run is a script of its own, with exported variables and directory kept from run to run."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from . import events, http, paths
from .http import BAD_BODY, FAILED, BadBodyError, JsonObject, RefusedError, Request, Response
from .processes import WatchedProcess

LONGEST_LINE_BYTES = 16 * 1024 * 1024

_VARIABLES_BEGIN, _VARIABLES_END = "__ENV_DUMP_START__", "__ENV_DUMP_END__"
_CWD, _EXIT_CODE = "__PWD__:", "__EXIT_CODE__:"
_EPILOGUE = f"""\
__USER_EXIT_CODE__=$?
printf '\\n%s\\n' {_VARIABLES_BEGIN}
export -p
printf '%s\\n' {_VARIABLES_END}
printf '{_CWD}%s\\n' "$(pwd)"
printf '{_EXIT_CODE}%s\\n' "$__USER_EXIT_CODE__"
exit "$__USER_EXIT_CODE__"
"""
"""The end of a session's script."""
_EXPORT = re.compile(r"declare -x ([A-Za-z_][A-Za-z0-9_]*)(?:=(.*))?", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_POLL_MILLISECONDS = 100
"""Interval of the checks for a client that has gone and for the timeout, while there is no output."""
_DAY_MILLISECONDS = 24 * 3600 * 1000
_LONGEST_VALUE = 8 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_KEPT = frozenset({"PS1", "PS2", "PS3", "PS4", "PROMPT_COMMAND"})


class RunFailedError(Exception):
    """A run without a result; the text says why."""


class Session:
    """The variables and the directory that one session keeps from run to run.

    Args:
        cwd: where the first run starts; empty is the agent's own directory.
    """

    def __init__(self, cwd: str) -> None:
        import uuid  # only sessions need it

        self.id = str(uuid.uuid4())
        self.cwd = cwd
        self.variables = {name: value for name, value in os.environ.items() if _NAME.fullmatch(name)}
        self.current: Run | None = None

    def script(self, command: str, cwd: str) -> str:
        """Return a script that restores the session, runs the command and prints its variables and directory."""
        lines = [f"export {name}={_quote(value)}" for name, value in sorted(_kept(self.variables).items())]
        lines += [f"cd {_quote(cwd)}"] if cwd else []
        return "\n".join([*lines, command.removesuffix("\n"), _EPILOGUE])

    def update(self, output: ScriptOutput) -> None:
        """Take over what a finished run left behind."""
        self.variables = _kept(output.variables) or self.variables
        self.cwd = output.cwd or self.cwd


class Sessions:
    """The sessions of one agent."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def create(self, request: Request) -> Response:
        """Answer ``POST /session``; the body is optional, and its directory is made when it is missing.

        Raises:
            RefusedError: 400, the body is not what it should be.
            OSError: the directory cannot be made.
        """
        raw = request.input.read()
        try:
            cwd = JsonObject(http.parse(raw) if raw.strip() else None).text("cwd")
        except BadBodyError as exc:
            raise RefusedError(400, BAD_BODY, f"invalid body: {exc}") from exc
        directory = paths.expand(cwd)
        if directory:
            with http.missing_file_fails():
                paths.make_directory(directory)
        session = Session(directory)
        self._sessions[session.id] = session
        return http.json_response({"session_id": session.id})

    def run(self, request: Request, identifier: str) -> Response:
        """Answer ``POST /session/{id}/run`` with a stream of events.

        Raises:
            RefusedError: 400, the request is wrong; 500, there is no such session.
        """
        command, cwd, timeout = request.read_json(_run_fields)
        wrong = "" if command else "command is required"
        wrong = wrong or ("timeout must not be negative" if timeout < 0 else paths.invalid_directory(cwd))
        if wrong:
            raise RefusedError(400, BAD_BODY, wrong)
        session = self._sessions.get(identifier)
        if session is None:
            raise RefusedError(500, FAILED, f"session {identifier} not found")
        script = session.script(command, paths.expand(cwd) or session.cwd)
        return http.stream(_events(session, Run(script, timeout or _DAY_MILLISECONDS), request.is_disconnected))

    def interrupt(self, identifier: str) -> bool:
        """Kill a session's run and end the session; return False when there is none of that id."""
        session = self._sessions.pop(identifier, None)
        if session is None:
            return False
        if session.current is not None:
            session.current.kill()
        return True

    def delete(self, request: Request, identifier: str) -> Response:
        """Answer ``DELETE /session/{id}``.

        Raises:
            RefusedError: 404, there is no such session.
        """
        if not self.interrupt(identifier):
            raise RefusedError(404, "CONTEXT_NOT_FOUND", f"session {identifier} not found")
        return Response()


class Run:
    """One script, whose output is read from a pipe until no process holds its other end.

    Args:
        script: bash.
        timeout: milliseconds; counts from the first event.

    Attributes:
        script_output: what the script has printed so far.
    """

    def __init__(self, script: str, timeout: int) -> None:
        self.script_output = ScriptOutput()
        self._script = script
        self._timeout = timeout
        self._process: WatchedProcess | None = None

    def output(self, is_disconnected: Callable[[], bool]) -> Iterator[bytes]:
        """Run the script and yield its output as events.

        A timeout, or a client that goes away, kills bash itself but none of its children: as in ExecD, the run lasts
        until the last of them has closed the pipe.

        Raises:
            RunFailedError: bash could not be started, a line is too long, or the time was up.
        """
        deadline = time.monotonic() + self._timeout / 1000
        with tempfile.NamedTemporaryFile("w", prefix="execd_bash_", suffix=".sh", errors="surrogateescape") as file:
            file.write(self._script)
            file.flush()
            process = _start(file.name)
            self._process = WatchedProcess(process)
            assert process.stdout is not None
            try:
                with process.stdout as pipe:
                    yield from self._until_end(self._process, pipe, deadline, is_disconnected)
            finally:
                self._process.kill_leader()
        self._process.ended.wait()
        if time.monotonic() >= deadline:
            raise RunFailedError(f"timeout after {self._timeout} ms")

    def outcome(self) -> tuple[int, str]:
        """Return exit code and error text of a run that has ended."""
        assert self._process is not None
        code = self.script_output.exit_code
        if code is None:
            code = self._process.exit_code or 0
        return code, self._process.error or f"command exited with code {code}"

    def kill(self) -> None:
        """Kill the script and its children."""
        if self._process is not None:
            self._process.signal_group(signal.SIGKILL)

    def _until_end(
        self, process: WatchedProcess, pipe: IO[bytes], deadline: float, is_disconnected: Callable[[], bool]
    ) -> Iterator[bytes]:
        pings = events.Pings()
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        is_open = True
        while not is_disconnected():
            if is_open and poller.poll(_POLL_MILLISECONDS):
                data = os.read(pipe.fileno(), 65_536)
                is_open = bool(data)
                lines = self.script_output.feed(data) if data else self.script_output.end()
                yield events.output("stdout", lines)
            elif not is_open and process.ended.wait(_POLL_MILLISECONDS / 1000):
                return
            if time.monotonic() > deadline:
                process.kill_leader()
            yield pings.due()


class ScriptOutput:
    """Parser of what a session's script prints: the command's output, then variables and directory between markers.

    Attributes:
        variables: exported variables at the end of the run; empty when the script did not get that far.
        cwd: the directory at the end of the run; empty likewise.
        exit_code: that of the command; None likewise.
    """

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.cwd = ""
        self.exit_code: int | None = None
        self._held = b""
        self._in_variables = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines of output that end within ``data``; blank ones are dropped.

        Raises:
            RunFailedError: a line of 16 MiB or more.
        """
        *lines, self._held = (self._held + data).split(b"\n")
        if max(map(len, (*lines, self._held))) >= LONGEST_LINE_BYTES:
            raise RunFailedError(f"a line of {LONGEST_LINE_BYTES:,} bytes or more")
        return [line for line in map(self._shown, lines) if line]

    def end(self) -> list[bytes]:
        """Return the unfinished last line, if there is one."""
        return self.feed(b"\n") if self._held else []

    def _shown(self, line: bytes) -> bytes:
        """Return a line of output; read a line of the markers, and return nothing for it."""
        line = line.removesuffix(b"\r")
        if not self._in_variables and not line.startswith(b"__"):
            return line
        text = line.decode("utf-8", "surrogateescape")
        if text in (_VARIABLES_BEGIN, _VARIABLES_END):
            self._in_variables = text == _VARIABLES_BEGIN
        elif text.startswith(_EXIT_CODE):
            code = text.removeprefix(_EXIT_CODE)
            self.exit_code = int(code) if code.isdecimal() else self.exit_code
        elif text.startswith(_CWD):
            self.cwd = text.removeprefix(_CWD)
        elif self._in_variables:
            self._read_export(text)
        else:
            return line
        return b""

    def _read_export(self, text: str) -> None:
        """Read a line of ``export -p``; the further lines of a value with line breaks are lost, as in ExecD."""
        match = _EXPORT.fullmatch(text)
        if match:
            self.variables[match[1]] = _unquote(match[2] or "")


def _run_fields(value: Any) -> tuple[str, str, int]:
    fields = JsonObject(value)
    return fields.text("command"), fields.text("cwd"), fields.number("timeout") or 0


def _events(session: Session, run: Run, is_disconnected: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the events of one run; when the client goes away the run is killed."""
    started = time.monotonic()
    session.current = run
    yield events.init(session.id) + events.ping()
    try:
        yield from run.output(is_disconnected)
    except RunFailedError as exc:
        yield RefusedError(500, FAILED, f"error running in session: {exc}").body()
        return
    session.update(run.script_output)
    code, text = run.outcome()
    if code:
        yield events.error(str(code), text)
    else:
        yield events.complete(int((time.monotonic() - started) * 1000))


def _start(path: str) -> subprocess.Popen[bytes]:
    if not shutil.which("bash"):
        raise RunFailedError("there is no bash")
    try:
        return subprocess.Popen(  # noqa: S603 - the agent runs what the client asks for
            ["bash", "--noprofile", "--norc", path],  # noqa: S607 - whichever bash the sandbox has
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as exc:
        raise RunFailedError(f"bash cannot be started: {exc.strerror}") from exc


def _kept(variables: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name not in _NOT_KEPT and len(os.fsencode(value)) <= _LONGEST_VALUE
    }


def _quote(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _unquote(value: str) -> str:
    """Undo bash's quotes the way ExecD does, which leaves the backslash before ``$`` and a backtick in place."""
    match = _QUOTED.fullmatch(value)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else value.strip('"')
