"""The program that supervises opensandbox-server for one run, and cleans the Docker engine after it."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pytest_opensandbox.servers.docker_config import (
    LOOPBACK,
    DockerStartError,
    ServerFiles,
    check_libraries,
    config_text,
    example_images,
)
from pytest_opensandbox.servers.docker_engine import Engine
from pytest_opensandbox.servers.server_process import end, spawn
from pytest_opensandbox.temporary_directories import hold, remove_abandoned
from pytest_opensandbox.text import counted, os_reason
from pytest_opensandbox.transport.retry import poll_until_ready

if TYPE_CHECKING:
    import subprocess

START_SECONDS = 90.0
STOP_SECONDS = 20.0

_PORTS_TRIED = 3
_READ_BYTES = 4096
_TAIL_CHARACTERS = 2_000
_PROBE_SECONDS = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until standard input closes.

    The first line on standard output is JSON: url, api_key, file and log, or error and cause.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        Exit status: 0 after standard input closed or a signal came, 1 if the server cannot run here.
    """
    options = _parser().parse_args(arguments)
    for number in _SIGNALS:
        signal.signal(number, _exit)
    try:
        check_libraries()
        remove_abandoned()
        with _private_directory() as directory:
            hold(Path(directory))
            _supervise(ServerFiles(Path(directory)), options)
    except DockerStartError as error:
        _announce({"error": str(error), "cause": error.cause})
        return 1
    return 0


@contextmanager
def _private_directory() -> Iterator[str]:
    """Yield a directory that is deleted after the block; errors in it name the directory.

    Raises:
        DockerStartError: it cannot be created, or not be written to.
    """
    directory = ""
    try:
        with tempfile.TemporaryDirectory(prefix="pytest-opensandbox-docker-", ignore_cleanup_errors=True) as directory:
            yield directory
    except OSError as error:
        advice = "free some space there, or set TMPDIR to another directory"
        raise DockerStartError(os_reason(error, directory or tempfile.gettempdir()), advice) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_opensandbox.servers.docker_supervisor", description=__doc__)
    parser.add_argument("--label", required=True, help="KEY=VALUE that the sandboxes of this run carry")
    parser.add_argument("--execd-image", help="image of the agent")
    parser.add_argument("--egress-image", help="image of the egress sidecar")
    return parser


def _supervise(files: ServerFiles, options: argparse.Namespace) -> None:
    """Serve until standard input closes, then end the server and delete what it created."""
    execd_image, egress_image = options.execd_image, options.egress_image
    if not (execd_image and egress_image):
        example_execd, example_egress = example_images()
        execd_image, egress_image = execd_image or example_execd, egress_image or example_egress
    engine = Engine()
    server = _Server(files, engine, execd_image=execd_image, egress_image=egress_image)
    try:
        credentials = server.start()
        files.write(files.handover, json.dumps(credentials))
        _announce({**credentials, "file": str(files.handover), "log": str(files.log)})
        _wait_for_end_of_input()
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        server.stop()
        engine.clear(files, label=options.label)
        engine.close()


class _Server:
    """The server's process, with its configuration."""

    def __init__(self, files: ServerFiles, engine: Engine, *, execd_image: str, egress_image: str) -> None:
        self._files = files
        self._environment = {**engine.environment(), "HOME": str(files.directory)}
        self._images = {"execd_image": execd_image, "egress_image": egress_image}
        self._key = secrets.token_hex(16)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, str]:
        """Start the process and return its url and api_key once it is healthy.

        Raises:
            DockerStartError: it ends, or is not healthy in time.
        """
        for _ in range(_PORTS_TRIED):
            self._spawn()
            poll_until_ready(self._probe, budget_seconds=START_SECONDS, on_timeout=self._timeout_error)
            if self._process is not None:
                break
        else:
            raise DockerStartError(f"another program took each of {_PORTS_TRIED} free ports", "try again")
        threading.Thread(target=_end_with_server, args=(self._process,), daemon=True).start()
        return {"url": f"http://{LOOPBACK}:{self._port}", "api_key": self._key}

    def stop(self) -> None:
        """End the process; it has time to finish its requests."""
        if self._process is not None:
            end(self._process, seconds=STOP_SECONDS)

    def _spawn(self) -> None:
        self._port = _free_port()
        config = config_text(self._files, port=self._port, api_key=self._key, **self._images)
        self._files.write(self._files.config, config)
        with open(self._files.log, "ab") as log:
            self._process = spawn(
                "pytest_opensandbox.servers.docker_process",
                [str(self._files.config)],
                stdout=log,
                stderr=log,
                environment=self._environment,
            )

    def _probe(self) -> bool | None:
        """Return True once this server answers, or once its port turned out to be taken; None before."""
        if self._process is not None and self._process.poll() is None:
            return (self._answer("/health") == 200 and self._answer("/v1/sandboxes?pageSize=1") == 200) or None
        self.stop()
        self._process = None
        if "address already in use" not in self._log_tail():
            raise self._start_error("opensandbox-server ended before it listened")
        return True

    def _answer(self, path: str) -> int:
        """Return the status of the answer, 0 for none."""
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", path, headers={"OPEN-SANDBOX-API-KEY": self._key})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _timeout_error(self, waited_seconds: float, attempts: int) -> DockerStartError:
        return self._start_error(
            f"opensandbox-server was not healthy after {waited_seconds:.0f} s and {counted(attempts, 'attempt')}"
        )

    def _start_error(self, why: str) -> DockerStartError:
        sys.stderr.write(self._log_tail())
        return DockerStartError(why, "the end of its log follows")

    def _log_tail(self) -> str:
        return self._files.log.read_text(encoding="utf-8", errors="replace").strip()[-_TAIL_CHARACTERS:]


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def _end_with_server(process: subprocess.Popen[bytes]) -> None:
    """Send this process SIGTERM when the server's process has ended."""
    process.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_end_of_input() -> None:
    """Return when standard input has closed."""
    while os.read(sys.stdin.fileno(), _READ_BYTES):
        pass


def _announce(line: dict[str, str]) -> None:
    """Write one line of JSON to standard output, where the parent reads it."""
    print(json.dumps(line), flush=True)  # noqa: T201 - the parent reads this line


def _exit(number: int, frame: FrameType | None) -> None:
    """End the process on a signal, with its clean-up."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
