"""Bash sessions: each run is a script of its own, with exported variables and directory carried from run to run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from bottle import HTTPResponse

from . import answers, events, paths
from .answers import RefusedError
from .calls import BAD_BODY, BadBodyError, Call, Fields, parse
from .entries import EntryError, make_folders
from .scripts import Run, RunFailedError
from .transcript import EPILOGUE, Transcript

_DAY_MILLISECONDS = 24 * 3600 * 1000
_LONGEST_VALUE = 8 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_CARRIED = frozenset({"PS1", "PS2", "PS3", "PS4", "PROMPT_COMMAND"})


class Session:
    """What one session carries from run to run.

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
        """Return a script that restores the session, runs the command, and tells what the session has become."""
        lines = [f"export {name}={_quoted(value)}" for name, value in sorted(_carried(self.variables).items())]
        lines += [f"cd {_quoted(cwd)}"] if cwd else []
        return "\n".join([*lines, command.removesuffix("\n"), EPILOGUE])

    def carry(self, transcript: Transcript) -> None:
        """Take over what a finished run left behind."""
        self.variables = _carried(transcript.variables) or self.variables
        self.cwd = transcript.cwd or self.cwd


class Sessions:
    """The sessions of one agent."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def create(self, call: Call) -> HTTPResponse:
        """Answer ``POST /session``; the body is optional, and its directory is made when it is missing.

        Raises:
            RefusedError: 400, the body is not what it should be; 500, the directory cannot be made.
        """
        raw = call.input.read()
        try:
            cwd = Fields(parse(raw) if raw.strip() else None, "CreateSessionRequest").text("cwd")
        except BadBodyError as exc:
            raise RefusedError(400, BAD_BODY, f"error parsing request. {exc}") from exc
        session = Session(_made(cwd))
        self._sessions[session.id] = session
        return answers.json_answer({"session_id": session.id})

    def run(self, call: Call, identifier: str) -> HTTPResponse:
        """Answer ``POST /session/{id}/run`` with a stream of events.

        Raises:
            RefusedError: 400, the request is wrong; 500, there is no such session.
        """
        command, cwd, timeout = call.checked(_run, "error parsing request. ")
        wrong = [] if command else [answers.invalid_field("RunInSessionRequest", "Command", "required")]
        if timeout < 0:
            wrong.append(answers.invalid_field("RunInSessionRequest", "Timeout", "gte"))
        text = "\n".join(wrong) or paths.invalid_directory(cwd)
        if text:
            raise RefusedError(400, BAD_BODY, f"invalid request. {text}")
        session = self._sessions.get(identifier)
        if session is None:
            raise RefusedError(500, "RUNTIME_ERROR", "error running in session. context not found")
        script = session.script(command, paths.expand(cwd) or session.cwd)
        return answers.stream(_events(session, Run(script, timeout or _DAY_MILLISECONDS), call.is_gone))

    def interrupt(self, identifier: str) -> bool:
        """Kill a session's run and end the session; return False when there is none of that id."""
        session = self._sessions.pop(identifier, None)
        if session is None:
            return False
        if session.current is not None:
            session.current.kill()
        return True

    def delete(self, identifier: str) -> HTTPResponse:
        """Answer ``DELETE /session/{id}``.

        Raises:
            RefusedError: 404, there is no such session.
        """
        if not self.interrupt(identifier):
            raise RefusedError(404, "CONTEXT_NOT_FOUND", f"session {identifier} not found")
        return answers.done()


def _made(cwd: str) -> str:
    """Return the directory for a session, which is made when it is missing."""
    try:
        directory = paths.expand(cwd)
        if directory:
            make_folders(directory)
    except paths.UnusablePathError as exc:
        text = f"error creating session. resolve request cwd {cwd}: {exc}"
        raise RefusedError(500, "RUNTIME_ERROR", text) from exc
    except EntryError as exc:
        raise RefusedError(500, "RUNTIME_ERROR", f"error creating session. {exc}") from exc
    return directory


def _run(value: Any) -> tuple[str, str, int]:
    fields = Fields(value, "RunInSessionRequest")
    return fields.text("command"), fields.text("cwd"), fields.number("timeout") or 0


def _events(session: Session, run: Run, is_gone: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the events of one run; when the client goes away the run is killed."""
    started = time.monotonic()
    session.current = run
    yield events.init(session.id) + events.ping()
    try:
        yield from run.output(is_gone)
    except RunFailedError as exc:
        yield RefusedError(500, "RUNTIME_ERROR", f"error running in session. {exc}").body()
        return
    session.carry(run.transcript)
    code, text = run.outcome()
    if code:
        yield events.error(str(code), text)
    else:
        yield events.complete(int((time.monotonic() - started) * 1000))


def _carried(variables: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name not in _NOT_CARRIED and len(os.fsencode(value)) <= _LONGEST_VALUE
    }


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"
