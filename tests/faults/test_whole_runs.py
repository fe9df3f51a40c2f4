"""Whole runs of pytest among random faults: tests pass, or fail with an error of ours; and nothing is left of them."""

import re
from random import Random

import pytest

from pytest_opensandbox import Client, SandboxGoneError
from pytest_opensandbox.client.sandbox_opts import label_value
from pytest_opensandbox.sandbox.tracking import TAG_PROJECT
from pytest_opensandbox.servers.server_process import start_embedded
from tests.faults import faults
from tests.faults.proxy import FaultyProxy, Plan, well

pytestmark = pytest.mark.thorough

SUITE = """
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_it(sandbox, number, tmp_path):
        result = sandbox.run("echo >>/tmp/runs; printf 'a\\\\0b'; echo wrong >&2; exit 3")
        assert (result.exit_code, result.stdout_bytes, result.stderr) == (3, b"a\\0b", "wrong\\n")
        assert sandbox.run("wc -l </tmp/runs").stdout == "1\\n"
        sandbox.put(b"x" * 5000, "/tmp/tree/x")
        assert sandbox.get("/tmp/tree/x") == b"x" * 5000
        assert [path.name for path in sandbox.get("/tmp/tree", tmp_path / "tree").iterdir()] == ["x"]
"""
QUICK = (
    *(faults.reset_at_once, faults.reset_after, faults.reset_within, faults.truncate, faults.delay, faults.trickle),
    *(faults.garbage, faults.too_short, faults.bytes_twice, faults.open_for_ever),
    *(faults.refuse_with(status, retry_after="0") for status in faults.STATUSES),
)
"""Faults that a run need not wait for."""
NOT_OURS = re.compile(r"^E +(?!pytest_opensandbox\.)[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*", re.MULTILINE)


@pytest.fixture
def faulty(pytester, clean_environment, monkeypatch):
    """A proxy before a server of its own, which the environment names to the inner run."""
    server = start_embedded()
    with server, FaultyProxy(server.url) as proxy, Client(server.url, server.api_key) as truth:
        proxy.server, proxy.truth, proxy.project = server, truth, label_value(pytester.path.name)
        monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", proxy.url)
        monkeypatch.setenv("OPEN_SANDBOX_API_KEY", server.api_key)
        monkeypatch.setenv("OPEN_SANDBOX_USE_SERVER_PROXY", "yes")
        monkeypatch.setenv("OPENSANDBOX_IMAGE", "host")
        pytester.makepyfile(SUITE)
        yield proxy


def random_faults(seed, *, share):
    """Return a plan by which some requests meet some fault."""
    rng = Random(seed)

    def fault(exchange):
        return rng.choice(QUICK)(exchange) if rng.random() < share else well(exchange)

    return Plan(fault, times=1 << 30)


@pytest.mark.parametrize(
    ("workers", "seed"), [pytest.param((), 1, id="one process"), pytest.param(("-n2",), 2, id="two workers")]
)
def test_a_run_among_faults_fails_with_our_errors_only_and_leaves_nothing(pytester, faulty, workers, seed):
    faulty.spoil(random_faults(seed, share=0.1))

    result = pytester.runpytest_subprocess("--opensandbox-ready-timeout=20", *workers, timeout=200)
    faulty.heal()

    outcomes = result.parseoutcomes()
    shown = result.stdout.str()
    assert sum(outcomes.get(word, 0) for word in ("passed", "failed", "errors")) == 6
    assert NOT_OURS.findall(shown) == []
    assert "INTERNALERROR" not in shown
    assert left(faulty, shown) == []


def left(faulty, shown):
    """Return what lives on, but for what the run itself has named as left."""
    alive = [sandbox.id for sandbox in faulty.truth.list_sandboxes({TAG_PROJECT: faulty.project})]
    return [sandbox for sandbox in alive if sandbox not in shown]


def test_a_run_goes_on_when_the_server_was_restarted_in_its_middle(pytester, faulty):
    servers = []

    def restart(exchange):
        pieces = exchange.ask()
        exchange.send(next(pieces))
        faulty.server.stop()
        servers.append(start_embedded())
        faulty.move(servers[0].url, keys=(faulty.server.api_key, servers[0].api_key))
        return False

    faulty.spoil(Plan(restart, skip=5, matching="^POST .*/command"))

    result = pytester.runpytest_subprocess(timeout=200)
    faulty.heal()

    with servers[0], Client(servers[0].url, servers[0].api_key) as truth:
        alive = truth.list_sandboxes()
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"E *{SandboxGoneError.__name__}: sandbox * is gone, deleted by someone*",
            "id=*, gone (deleted by someone); *",
            "it is gone: deleted by someone",
        ]
    )
    assert alive == []
