"""One embedded server for all cases of a worker, and time limits short enough to be waited for."""

from collections.abc import Iterator

import pytest

from pytest_opensandbox.client import commands, file_transfer, files
from pytest_opensandbox.servers.server_process import ManagedServer, start_embedded
from tests.faults.bench import REQUEST_SECONDS, Bench


@pytest.fixture(scope="session")
def server() -> Iterator[ManagedServer]:
    """The server behind every proxy."""
    with start_embedded() as server:
        yield server


@pytest.fixture(scope="session")
def shared_bench(server) -> Iterator[Bench]:
    bench = Bench(server)
    yield bench
    bench.close()


@pytest.fixture
def bench(shared_bench, short_limits, tmp_path) -> Bench:
    """The surroundings of one case; to be begun with its seed."""
    shared_bench.begin(0, tmp_path)
    return shared_bench


@pytest.fixture
def short_limits(monkeypatch) -> None:
    """Make every time limit one that a test can wait for."""
    monkeypatch.setattr(commands, "FIRST_BYTE_SECONDS", REQUEST_SECONDS)
    monkeypatch.setattr(commands, "SILENCE_SECONDS", REQUEST_SECONDS)
    monkeypatch.setattr(commands, "GRACE_SECONDS", REQUEST_SECONDS)
    monkeypatch.setattr(commands, "_INTERRUPT_TIMEOUTS", (REQUEST_SECONDS, REQUEST_SECONDS))
    monkeypatch.setattr(commands, "_STATUS_TIMEOUTS", (REQUEST_SECONDS, REQUEST_SECONDS))
    monkeypatch.setattr(files, "TRANSFER_TIMEOUTS", (REQUEST_SECONDS, REQUEST_SECONDS))
    monkeypatch.setattr(file_transfer, "PATIENCE_SECONDS", 2 * REQUEST_SECONDS)
