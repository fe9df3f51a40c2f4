"""A real server that is killed and started again with its store, in the middle of a run."""

import os
import secrets
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from pytest_opensandbox import Client, OpenSandboxError
from pytest_opensandbox.servers.docker_config import ServerFiles, config_text
from tests.embedded.machine import wait_until

GOES_ON = """
    import pathlib, time

    def test_it(sandbox, sandbox_factory):
        sandbox.run("echo kept > /var/tmp/file", check=True)
        pathlib.Path("now").touch()
        while not pathlib.Path("restarted").exists():
            time.sleep(0.05)
        assert sandbox.run("cat /var/tmp/file").stdout == "kept\\n"
        sandbox.put("new", "/var/tmp/new")
        with sandbox_factory() as other:
            assert other.run("true").ok
"""
CREATES = """
    import pathlib
    from pytest_opensandbox import OpenSandboxError

    def test_it(sandbox_factory):
        for number in range(20):
            pathlib.Path("now").touch()
            try:
                sandbox_factory().close()
            except OpenSandboxError:
                return
"""


class RestartableServer:
    """opensandbox-server in a process of its own, with a store that outlives it."""

    def __init__(self, directory, images):
        self.key = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        files = ServerFiles(directory)
        values = {"port": port, "api_key": self.key, "execd_image": images.execd, "egress_image": images.execd}
        files.write(files.config, config_text(files, **values))
        self._files = files
        self._process = None

    def start(self):
        # Not opensandbox-server's own command, which would take over the sandboxes of other tests on the same engine.
        command = [sys.executable, "-m", "pytest_opensandbox.servers.docker_process", str(self._files.config)]
        log = open(self._files.directory / "output", "ab")  # noqa: SIM115 - the process has it
        environment = {**os.environ, "HOME": str(self._files.directory)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        log.close()
        assert wait_until(self._answers, seconds=90), (self._files.directory / "output").read_text()

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def _answers(self):
        try:
            with Client(self.url, self.key) as client:
                client.list_sandboxes()
        except OpenSandboxError:
            return False
        return True


@pytest.fixture
def restartable(tmp_path_factory, images):
    server = RestartableServer(tmp_path_factory.mktemp("server"), images)
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("suite", [pytest.param(GOES_ON, id="between"), pytest.param(CREATES, id="in a create")])
def test_a_run_whose_server_is_restarted_leaves_nothing(pytester, restartable, images, of_run, monkeypatch, suite):
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", restartable.key)
    pytester.makepyfile(suite)
    options = (f"--opensandbox-url={restartable.url}", f"--opensandbox-image={images.sandbox}")
    process = pytester.popen(
        [sys.executable, "-m", "pytest", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with closing(process.stdout):
        assert wait_until((pytester.path / "now").exists, seconds=120)

        restartable.kill()
        restartable.start()
        (pytester.path / "restarted").touch()
        output = process.stdout.read().decode()
        process.wait()

    assert process.returncode == 0, output
    assert of_run(pytester.path.name) == [], output
