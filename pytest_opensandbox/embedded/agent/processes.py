"""Processes that the agent starts: how they begin, and how they are watched, interrupted and killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, NamedTuple

from . import paths
from .http import BAD_BODY, RefusedError, reason

TERM_GRACE_SECONDS = 3.0
_CAP_SETGID, _CAP_SETUID = 1 << 6, 1 << 7
_PROBE_SECONDS = 0.01
_PLAIN_EXEC = re.compile(r"exec /[A-Za-z0-9_./+-]+(?: [A-Za-z0-9_./+-]+)*")
_started: set[int] = set()
"""Process groups in which processes may still run."""


class SpawnError(Exception):
    """The system refused to start a process; the text says why."""


class CommandSpec(NamedTuple):
    """What a request asks the agent to run, and how."""

    command: str
    """Text for a shell, unless ``argv`` is given."""
    argv: list[str]
    """Program and arguments; no shell sees them."""
    cwd: str
    """Working directory, before expansion; empty is the agent's own."""
    envs: Mapping[str, str]
    """Variables on top of the agent's environment."""
    uid: int | None
    gid: int | None

    @property
    def content(self) -> str:
        """The command as one text, for its status."""
        if not self.argv:
            return self.command
        import shlex  # only for the rare argv

        return shlex.join(self.argv)


def start(spec: CommandSpec, stdout: IO[bytes] | int, stderr: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own, with nothing on standard input.

    Raises:
        SpawnError: it could not be started.
    """
    extra = {**_file_environment(), **spec.envs}
    environment = {**os.environ, **extra}
    user, group, groups = _identity(spec)
    # The shell is looked up in the agent's PATH, a program in the command's.
    argv = spec.argv or _plain_words(spec.command)
    program = argv[0] if argv else _shell()
    argv = argv or [os.path.basename(program), "-c", spec.command]
    try:
        return subprocess.Popen(  # noqa: S603 - the agent runs what the client asks for
            argv,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=paths.expand(spec.cwd, environment) or None,
            env=environment,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=groups,
        )
    except OSError as exc:
        raise SpawnError(reason(exc)) from exc
    except ValueError as exc:  # NUL in an argument or a variable
        raise SpawnError(f"{program}: {exc}") from exc


def _plain_words(command: str) -> list[str]:
    """Return the words of a command that only executes a program by its path, [] for any other.

    A shell would do nothing else, and an image may have none.
    """
    return command.split(" ")[1:] if _PLAIN_EXEC.fullmatch(command) else []


def _shell() -> str:
    """Return the path of ``bash``, or of ``sh`` where there is no bash."""
    return shutil.which("bash") or shutil.which("sh") or "sh"


def _file_environment() -> dict[str, str]:
    """Return the ``NAME=VALUE`` lines of the file that EXECD_ENVS names, if there is one."""
    try:
        with open(paths.expand(os.environ.get("EXECD_ENVS", "")), encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return {}
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {name: paths.substitute(value, os.environ) for name, value in pairs}


def check_identity(uid: int | None, gid: int | None) -> None:
    """Refuse a user or group that no process in this sandbox can become.

    Raises:
        RefusedError: 400; the message says what to use instead.
    """
    if uid is None or _is_own(uid, gid):
        return
    if not _can_switch() or not _is_mapped("uid", uid) or not _is_mapped("gid", gid or 0):
        raise RefusedError(
            400,
            BAD_BODY,
            f"user {uid} and group {'default' if gid is None else gid} do not exist "
            f"in this sandbox, which has user {os.geteuid()} and group {os.getegid()} only: leave uid and gid out, "
            f"use {os.geteuid()} and {os.getegid()}, or run on containers with --opensandbox-url docker",
        )


def _outcome(status: os.waitid_result) -> tuple[int, str]:
    """Return exit code and error text of a process that has ended; -1 for a signal, no text for success."""
    if status.si_code == os.CLD_EXITED:
        return status.si_status, f"exit status {status.si_status}" if status.si_status else ""
    dumped = " (core dumped)" if status.si_code == os.CLD_DUMPED else ""
    return -1, f"signal: {_signal_name(status.si_status)}{dumped}"


def shell_status(returncode: int) -> int:
    """Return a process's exit code as a shell gives it: 128 and the number of the signal that killed it."""
    return 128 - returncode if returncode < 0 else returncode


def _identity(spec: CommandSpec) -> tuple[int | None, int | None, list[int] | None]:
    """Return user, group and further groups to become; None leaves the agent's own."""
    if spec.uid is None or _is_own(spec.uid, spec.gid):
        return None, None, None
    import pwd

    try:
        entry = pwd.getpwuid(spec.uid)
        primary, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        primary, groups = 0, []
    return spec.uid, primary if spec.gid is None else spec.gid, groups


def _is_own(uid: int, gid: int | None) -> bool:
    return uid == os.geteuid() and gid in (None, os.getegid())


def _can_switch() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    return effective & _CAP_SETUID != 0 and effective & _CAP_SETGID != 0


def _is_mapped(kind: str, number: int) -> bool:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    return any(first <= number < first + count for first, _, count in ranges)


def _signal_name(number: int) -> str:
    text = signal.strsignal(number) if number < signal.SIGRTMIN else None
    if text is None:
        return f"signal {number}"
    return text if text[1:2].isupper() or text.startswith("I/O") else text[:1].lower() + text[1:]


class WatchedProcess:
    """A process that leads its own group, watched by a thread until it has ended.

    Args:
        process: just started, in a session of its own.
        timeout_seconds: kill the group after that long; None is never.
        kills_group: kill the rest of the group when its leader ends.

    Attributes:
        ended: set when ``exit_code``, ``error`` and ``finished_at`` are there.
        exit_code: 0 to 255, or -1 for a signal; None while it runs.
        error: ``exit status 3``, ``signal: killed`` or empty.
        finished_at: nanoseconds since the epoch; 0 while it runs.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, timeout_seconds: float | None = None, kills_group: bool = False
    ) -> None:
        self.ended = threading.Event()
        self.exit_code: int | None = None
        self.error = ""
        self.finished_at = 0
        self._process = process
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout_seconds, self.signal_group, [signal.SIGKILL]) if timeout_seconds else None
        _started.add(process.pid)
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        threading.Thread(target=self._watch, args=(kills_group,), daemon=True).start()

    def signal_group(self, number: int) -> None:
        """Signal the whole group, unless its leader has been reaped: another process may have its number by then."""
        with self._lock:
            if self._process.returncode is None:
                _signal(-self._process.pid, number)

    def kill_leader(self) -> None:
        """Kill the process but not its children."""
        with self._lock:
            if self._process.returncode is None:
                _signal(self._process.pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Send SIGTERM to the group, and SIGKILL when processes of it are left after three seconds."""
        group = self._process.pid
        self.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + TERM_GRACE_SECONDS
        while _signal(-group, 0):
            if time.monotonic() >= deadline:
                _signal(-group, signal.SIGKILL)
                break
            time.sleep(_PROBE_SECONDS)
        self.ended.wait(1)

    def _watch(self, kills_group: bool) -> None:
        pid = self._process.pid
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert status is not None
        if self._timer:
            self._timer.cancel()
        with self._lock:
            # The leader is still a zombie here, so that no other process can have the number of its group.
            if kills_group:
                _signal(-pid, signal.SIGKILL)
            self._process.wait()
        if not _signal(-pid, 0):
            _started.discard(pid)
        self.exit_code, self.error = _outcome(status)
        self.finished_at = time.time_ns()
        self.ended.set()


def kill_all() -> None:
    """Kill every process group that was started and may still have processes."""
    for group in list(_started):
        if _is_still_ours(group):
            _signal(-group, signal.SIGKILL)


def _is_still_ours(group: int) -> bool:
    """Return whether the number of a group has not passed to another process since its leader ended."""
    try:
        return os.getsid(group) == group
    except ProcessLookupError:
        return True


def _signal(target: int, number: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(target, number)
        return True
    return False
