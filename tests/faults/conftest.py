"""One embedded server for all cases of a worker, and time limits short enough to be waited for."""

from collections.abc import Iterator

import pytest

from pytest_opensandbox.servers.server_process import ServerProcess, start_embedded
from tests.faults.bench import Bench


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """The server behind every proxy."""
    with start_embedded() as server:
        yield server


@pytest.fixture(scope="session")
def shared_bench(server) -> Iterator[Bench]:
    bench = Bench(server)
    yield bench
    bench.close()


@pytest.fixture
def bench(shared_bench, tmp_path) -> Bench:
    """The bench of one case; to be begun with its seed."""
    shared_bench.begin(0, tmp_path)
    return shared_bench
