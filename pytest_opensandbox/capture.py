"""Runs a command so that what it wrote arrives byte for byte, although the agent's events carry only lines.

The agent drops the final newline, turns carriage returns into line breaks and replaces bytes that are not UTF-8.
So the sandbox keeps both streams in files. One outer script makes two private files, runs the command as its
child, then hands over what they wrote in base64 where it is short: one round trip for most commands. Longer streams
are downloaded, the middle left out beyond the cap.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pytest_opensandbox.client import Client
from pytest_opensandbox.errors import NotFoundError, OpenSandboxError
from pytest_opensandbox.models import Endpoint, FileUpload
from pytest_opensandbox.results import CommandResult

MAX_STREAM_BYTES = 16 * 1024 * 1024

Callback = Callable[[str], None]

# A multiple of three, so that one byte more makes a longer base64.
_INLINE_BYTES = 32_766
_NO_FILES = "-"
_ELSEWHERE = "-"
# These change how the outer script itself runs, so only the command's own process gets them.
_SHELL_VARIABLES = frozenset(
    {"BASH", "BASH_ENV", "BASHOPTS", "CDPATH", "ENV", "IFS", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "SHELLOPTS"}
)
# Every program that it starts costs more than a millisecond, so it starts none for a stream that is empty.
_SCRIPT = """\
f={stem}; s=${{BASH:-/bin/sh}}
(umask 077 && set -C && : >"$f.1" && : >"$f.2") 2>/dev/null || {{ echo {no_files}; ({inner}) <{stdin}; exit $?; }}
({inner}) <{stdin} >"$f.1" 2>"$f.2"
c=$? a= b=
[ ! -s "$f.1" ] || {{ a=$(head -c {one_more} <"$f.1" 2>/dev/null | base64 -w0 2>/dev/null); a=${{a:-{elsewhere}}}; }}
[ ! -s "$f.2" ] || {{ b=$(head -c {one_more} <"$f.2" 2>/dev/null | base64 -w0 2>/dev/null); b=${{b:-{elsewhere}}}; }}
[ ${{#a}} -ge {too_long} ] && a={elsewhere}
[ ${{#b}} -ge {too_long} ] && b={elsewhere}
[ "$a" = {elsewhere} ] || [ "$b" = {elsewhere} ] || rm -f "$f.1" "$f.2" 2>/dev/null &
echo "+$a"; echo "+$b"
exit $c"""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One command and the circumstances in which it runs."""

    command: str | Sequence[str]
    """Text for the sandbox's shell, or an argument list that meets no shell."""
    cwd: str | None = None
    """Working directory."""
    env: Mapping[str, str] | None = None
    """Variables on top of the sandbox's own."""
    uid: int | None = None
    """User to run as."""
    gid: int | None = None
    """Group to run as."""
    timeout: float | None = None
    """Seconds until it is killed with its children; None for no limit."""
    stdin: bytes | None = None
    """Standard input; None for an empty one."""

    @property
    def shell_text(self) -> str:
        """The command as text that replaces the shell that reads it."""
        if isinstance(self.command, str):
            return f'exec "${{BASH:-/bin/sh}}" -c {shlex.quote(self.command)} "$0"'
        words = shlex.join(self.command)
        # dash takes "--" for a program's name, bash takes a leading dash for an option.
        return f'[ -z "$BASH_VERSION" ] || exec -- {words}; exec {words}'


def run_exact(
    client: Client, endpoint: Endpoint, invocation: Invocation, *, max_bytes: int = MAX_STREAM_BYTES
) -> CommandResult:
    """Run a command and return exactly what it wrote.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        invocation: what to run.
        max_bytes: most that is kept of each stream; the middle of a longer one is left out; bytes, > 1.

    Returns:
        The result with ``exact=True``; ``exact=False`` where the sandbox has no writable /tmp.

    Raises:
        CommandStartError: the agent could not start it.
        CommandLostError: the connection ended before the command did.
        TransportError: the agent does not answer.

    Source: measured on 2026-11-20 with opensandbox-server 1.1.1 and execd 1.0.19.
    """
    stem = f"/tmp/.opensandbox-{secrets.token_hex(8)}"  # noqa: S108 - inside the sandbox, unguessable
    with _stdin_file(client, endpoint, invocation, f"{stem}.in") as stdin:
        outer = client.run_command(
            endpoint,
            _script(invocation, stem, stdin),
            cwd=invocation.cwd,
            env={key: value for key, value in (invocation.env or {}).items() if key not in _SHELL_VARIABLES},
            uid=invocation.uid,
            gid=invocation.gid,
            timeout=invocation.timeout,
        )
        return _collect(client, endpoint, replace(outer, command=invocation.command), stem, max_bytes)


def run_live(
    client: Client,
    endpoint: Endpoint,
    invocation: Invocation,
    *,
    on_stdout: Callback | None,
    on_stderr: Callback | None,
    max_bytes: int = MAX_STREAM_BYTES,
) -> CommandResult:
    """Run a command and hand on its lines while it runs; the result is made of the agent's line events.

    Args:
        client: talks to the agent.
        endpoint: the agent.
        invocation: what to run.
        on_stdout: called with each line of standard output, without its end.
        on_stderr: called with each line of standard error.
        max_bytes: most that is kept of each stream; bytes.

    Returns:
        The result with ``exact=False``.

    Raises:
        CommandStartError: the agent could not start it.
        CommandLostError: the connection ended before the command did.
        TransportError: the agent does not answer.
    """
    path = f"/tmp/.opensandbox-{secrets.token_hex(8)}.in"  # noqa: S108 - inside the sandbox, unguessable
    with _stdin_file(client, endpoint, invocation, path) as stdin:
        result = client.run_command(
            endpoint,
            f"exec <{stdin}; {invocation.shell_text}",
            cwd=invocation.cwd,
            env=invocation.env,
            uid=invocation.uid,
            gid=invocation.gid,
            timeout=invocation.timeout,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            max_bytes=max_bytes,
        )
    return replace(result, command=invocation.command)


def _script(invocation: Invocation, stem: str, stdin: str) -> str:
    own = {key: value for key, value in (invocation.env or {}).items() if key in _SHELL_VARIABLES}
    exports = "".join(f"export {key}={shlex.quote(value)}; " for key, value in own.items())
    return _SCRIPT.format(
        stem=stem,
        inner=exports + invocation.shell_text.replace("${BASH:-/bin/sh}", "$s"),
        stdin=stdin,
        no_files=_NO_FILES,
        elsewhere=_ELSEWHERE,
        one_more=_INLINE_BYTES + 1,
        too_long=_INLINE_BYTES // 3 * 4 + 1,
    )


@contextmanager
def _stdin_file(client: Client, endpoint: Endpoint, invocation: Invocation, path: str) -> Iterator[str]:
    """Yield the name of a file in the sandbox that holds the standard input."""
    if invocation.stdin is None:
        yield "/dev/null"
        return
    # Another user's command must be able to read it; the name cannot be guessed.
    mode = 0o600 if invocation.uid is None else 0o644
    client.upload_files(endpoint, [FileUpload(path, invocation.stdin, mode)])
    try:
        yield path
    finally:
        _tidy(lambda: client.remove_files(endpoint, [path]))


def _collect(client: Client, endpoint: Endpoint, outer: CommandResult, stem: str, max_bytes: int) -> CommandResult:
    """Turn the outer script's report into the command's own result."""
    first, _, rest = outer.stdout.partition("\n")
    if first == _NO_FILES:
        return replace(outer, stdout_bytes=rest.encode())
    files = (f"{stem}.1", f"{stem}.2")
    reported = _read_report(outer.stdout)
    try:
        streams = [
            (content, False) if content is not None else _fetch(client, endpoint, path, max_bytes)
            for path, content in zip(files, reported, strict=True)
        ]
    finally:
        if None in reported:
            _tidy(lambda: client.remove_files(endpoint, files))
    stdout, stderr = (_without_middle(content, max_bytes) for content, _ in streams)
    cut = any(was_cut or len(content) > max_bytes for content, was_cut in streams)
    return replace(outer, stdout_bytes=stdout, stderr_bytes=stderr, truncated=cut, exact=True, **_ending(outer))


def _read_report(report: str) -> tuple[bytes | None, bytes | None]:
    """Read what the script says of both streams; None for one that must be fetched, as after a time limit."""
    lines = report.splitlines()
    if len(lines) != 2:
        return None, None
    return _decoded(lines[0]), _decoded(lines[1])


def _decoded(line: str) -> bytes | None:
    try:
        return base64.b64decode(line[1:], validate=True) if line.startswith("+") else None
    except binascii.Error:
        return None


def _ending(outer: CommandResult) -> dict[str, Any]:
    """Tell a signal from an exit code above 128: the shell writes a line about a child that a signal ended.

    It writes none for SIGINT and SIGPIPE, so those stay the exit codes 130 and 141.
    """
    number = outer.exit_code - 128
    if outer.signal or number <= 0 or not outer.stderr_bytes:
        return {}
    try:
        return {"exit_code": -number, "signal": signal.Signals(number).name}
    except ValueError:
        return {}


def _fetch(client: Client, endpoint: Endpoint, path: str, max_bytes: int) -> tuple[bytes, bool]:
    """Download one stream, without its middle where it is longer than ``max_bytes``."""
    try:
        size = client.files_info(endpoint, [path])[path].size
        if size <= max_bytes:
            return _read(client, endpoint, path, (0, size)), False
        half = max_bytes // 2
        head = _read(client, endpoint, path, (0, half))
        return head + _read(client, endpoint, path, (size - half, size)), True
    except NotFoundError:
        return b"", False


def _read(client: Client, endpoint: Endpoint, path: str, span: tuple[int, int]) -> bytes:
    if span[0] == span[1]:
        return b""
    with client.download_file(endpoint, path, byte_range=span, known_file=True) as download:
        return download.read()


def _without_middle(content: bytes, max_bytes: int) -> bytes:
    half = max_bytes // 2
    return content if len(content) <= max_bytes else content[:half] + content[-half:]


def _tidy(remove: Callable[[], None]) -> None:
    """Remove what was in the way; a sandbox that cannot do it any more must not hide the command's result."""
    try:
        remove()
    except OpenSandboxError:
        return
