"""A Docker engine for the tests: the one that answers here, or one that they start themselves as root on Debian.

Only the standard library: tox imports it before anything is installed.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

DEFAULT_HOST = "unix:///var/run/docker.sock"
IMAGE = "OPENSANDBOX_TEST_IMAGE"
EXECD_IMAGE = "OPENSANDBOX_TEST_EXECD_IMAGE"

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


def chosen_host() -> str:
    """Return the address of the engine that this process would use."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def answers(host: str) -> bool:
    """Return whether an engine answers at an address, ``unix://PATH`` or ``tcp://HOST:PORT``."""
    try:
        with closing(http.client.HTTPConnection("localhost", timeout=10)) as connection:
            connection.sock = _connected(host)
            connection.request("GET", "/_ping")
            with connection.getresponse() as answer:
                return answer.status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def missing_requirement() -> str:
    """Return why there can be no engine with images here, or "" where there can."""
    if not answers(chosen_host()) and not _can_start():
        return f"no Docker engine answers at {chosen_host()}, and only root on Debian with docker.io can start one"
    named = os.environ.get(IMAGE) and os.environ.get(EXECD_IMAGE)
    if not named and not rootfs_archive().exists() and not _is_root_with("debootstrap", "tar"):
        return f"only root with debootstrap can build images here; {IMAGE} and {EXECD_IMAGE} name those to use instead"
    return ""


@contextmanager
def running_engine() -> Iterator[str]:
    """Yield the address of an engine: that of this machine, or one that is started for the block."""
    if answers(chosen_host()):
        yield chosen_host()
        return
    with tempfile.TemporaryDirectory(prefix="dockerd-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        host = f"unix://{home}/docker.sock"
        process = _start(home, host)
        try:
            _wait_until_it_answers(host, process, home / "log")
            yield host
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def cache() -> Path:
    """Return the directory of files that take long to build and are kept for the next run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-opensandbox"


def rootfs_archive() -> Path:
    """Return the path of the kept root file system of the test image."""
    return cache() / f"{release()}-python3-procps.tar"


def release() -> str:
    """Return the code name of this machine's Debian, or bookworm elsewhere."""
    lines = Path("/etc/os-release").read_text().splitlines() if Path("/etc/os-release").exists() else []
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    return facts.get("VERSION_CODENAME", "bookworm").strip('"') if "debian" in facts.get("ID", "") else "bookworm"


def _connected(host: str) -> socket.socket:
    scheme, _, address = host.partition("://")
    if scheme != "unix":
        name, _, port = address.partition(":")
        return socket.create_connection((name, int(port)), timeout=10)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(address)
    return connection


def _can_start() -> bool:
    return "DOCKER_HOST" not in os.environ and Path("/etc/debian_version").exists() and _is_root_with("dockerd")


def _is_root_with(*programs: str) -> bool:
    return os.geteuid() == 0 and all(shutil.which(program) for program in programs)


def _start(home: Path, host: str) -> subprocess.Popen[bytes]:
    directories = ("--data-root", home / "data", "--exec-root", home / "exec", "--pidfile", home / "pid")
    with open(home / "log", "wb") as log:
        return subprocess.Popen(
            ["dockerd", *directories, "--host", host], stdout=log, stderr=log, start_new_session=True
        )


def _wait_until_it_answers(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers(host):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"dockerd does not answer; its log ends with\n{log.read_text()[-3000:]}")
        time.sleep(0.1)
