"""The runner of this machine, started as a process of the test."""

import base64
import os
import subprocess
from importlib.resources import files

import pytest
from websockets.sync.client import connect

from pytest_opensandbox.sandbox.runner_protocol import VARIABLE, encode_request

NONCE = "0123456789abcdef"


class RunningBridge:
    """A bridge on this machine.

    Args:
        program: path of the runner.
        fields: further fields of its request.
    """

    def __init__(self, program, fields=()):
        request = base64.b64encode(encode_request("bridge", NONCE, "", fields)).decode()
        environment = {**os.environ, VARIABLE: request}
        self.process = subprocess.Popen([program], env=environment, stdout=subprocess.PIPE)
        words = self.process.stdout.readline().split()
        self.port, self.inner_port = int(words[2]), int(words[3])

    def connect(self, place, **how):
        """Open a WebSocket to a place behind the secret."""
        url = f"ws://127.0.0.1:{self.port}/{NONCE}/{place}"
        return connect(url, compression=None, max_size=None, ping_interval=None, **how)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Path of the runner of this machine."""
    path = tmp_path_factory.mktemp("runner") / "runner"
    path.write_bytes(files("pytest_opensandbox.runner").joinpath(f"program-{os.uname().machine}").read_bytes())
    path.chmod(0o755)
    return path


@pytest.fixture
def bridge_with(program):
    """Start bridges with further fields."""
    bridges = []

    def start(*fields):
        bridges.append(RunningBridge(program, fields))
        return bridges[-1]

    yield start
    for bridge in bridges:
        bridge.process.terminate()
        bridge.process.wait(10)
        bridge.process.stdout.close()


@pytest.fixture
def bridge(bridge_with):
    """A bridge on this machine."""
    return bridge_with()
