"""Many workers on one cluster: no leaks, also with a full pool, and a summary with the counts."""

import threading

import pytest

from pytest_opensandbox import Client, OpenSandboxError, Sandbox
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import RunTags
from tests.fleet.model import Delay, Pool
from tests.fleet.server import API_KEY

pytestmark = pytest.mark.thorough

SUITE = """
    import pytest

    @pytest.mark.parametrize("n", range(40))
    def test_it(sandbox, n):
        assert sandbox.run("sleep 1").stdout.strip() == sandbox.id
"""
# Half as many pods as workers, and a server that refuses soon.
SMALL = {"pools": {"tests": Pool(max_pods=2, min_pods=2, buffer_min=0, buffer_max=2)}, "pool_timeout": 3.0}


@pytest.fixture
def run_on(pytester, clean_environment, monkeypatch):
    """Run pytest with a fleet for a server."""

    def run(fleet, *arguments):
        monkeypatch.setenv("OPEN_SANDBOX_API_KEY", API_KEY)
        return pytester.runpytest_subprocess(
            f"--opensandbox-url={fleet.url}", "--opensandbox-pool=tests", *arguments, timeout=120
        )

    return run


def test_forty_tests_on_four_workers_share_a_pool_of_two(start, run_on, pytester):
    fleet = start(**SMALL, ending=Delay(1, 2), pod_start=Delay(3, 6))
    pytester.makepyfile(SUITE)

    result = run_on(fleet, "-n4")

    result.assert_outcomes(passed=40)
    result.stdout.fnmatch_lines(["opensandbox: 40 created, 40 deleted, 0 swept, 0 left"])
    assert fleet.cluster.counts["429 POOL_CAPACITY_EXHAUSTED"] > 0
    assert (fleet.cluster.counts["created"], fleet.alive) == (40, [])


def test_a_worker_that_dies_leaves_nothing_in_the_cluster(start, run_on, pytester):
    fleet = start()
    pytester.makepyfile("""
        import os, pytest

        @pytest.mark.parametrize("n", range(6))
        def test_it(sandbox, n):
            if n == 3:
                os._exit(1)
    """)

    result = run_on(fleet, "-n2")

    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["opensandbox: 6 created, 5 deleted, 1 swept, 0 left; gw? crashed"])
    assert fleet.alive == []


def test_thirty_two_workers_finish_with_a_quarter_of_the_pods(start, pooled):
    fleet = start(**(SMALL | {"pools": {"tests": Pool(max_pods=8, min_pods=8, buffer_min=0, buffer_max=8)}}))
    has_own_output, failed = [], []

    def work(number):
        with Client(fleet.url, API_KEY) as client:
            lifecycle = Lifecycle(client, tags=RunTags("run", f"gw{number}"), ready_timeout=60)
            for _ in range(3):
                try:
                    with Sandbox.launch(lifecycle, pooled) as sandbox:
                        has_own_output.append(sandbox.run("true").stdout.strip() == sandbox.id)
                except OpenSandboxError as exc:
                    failed.append(exc)
            lifecycle.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert has_own_output == [True] * 96
    assert fleet.cluster.counts["most at once"] <= 8
    assert fleet.alive == []
