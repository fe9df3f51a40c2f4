"""A server that stops and comes back empty: calls under way are lost, and later calls work."""

import threading

import pytest

from pytest_opensandbox import CommandLostError, SandboxGoneError, TransportError
from pytest_opensandbox.sandbox.lease import Lease
from pytest_opensandbox.servers.server_process import start_embedded
from pytest_opensandbox.transport.timeouts import Timeouts
from tests.faults.bench import CREATE_SECONDS, REQUEST_SECONDS, Bench
from tests.faults.faults import reset_at_once, well
from tests.faults.proxy import Plan

RENEWALS = "^POST .*/renew"


@pytest.fixture
def fragile(tmp_path):
    """A bench of its own, whose server may be stopped; ``restart`` puts another in its place."""
    servers = [start_embedded()]
    bench = Bench(servers[0], Timeouts(request_seconds=REQUEST_SECONDS, create_seconds=CREATE_SECONDS))
    bench.begin(0, tmp_path)

    def restart():
        servers[-1].stop()
        servers.append(start_embedded())
        bench.proxy.move(servers[-1].url, keys=(servers[0].api_key, servers[-1].api_key))

    bench.stop = servers[0].stop
    bench.restart = restart
    yield bench
    bench.proxy.close()
    for server in servers:
        server.stop()


def during_a_command(act):
    """Return a plan that does something while a command runs."""

    def fault(exchange):
        pieces = exchange.ask()
        exchange.send(next(pieces))
        exchange.send(next(pieces))
        act()
        return False

    return Plan(fault, matching="^POST .*/command")


def test_a_server_restarted_during_a_command_has_lost_the_sandbox(fragile):
    fragile.proxy.spoil(during_a_command(fragile.restart))

    with pytest.raises(
        SandboxGoneError, match=r"is gone, deleted by someone; .* lost its sandboxes in a restart"
    ) as caught:
        fragile.sandbox.run("sleep 30", timeout=60)

    assert isinstance(caught.value.__cause__, CommandLostError)
    assert fragile.launch().run("echo new").stdout == "new\n"


def test_a_server_that_stops_while_a_command_runs_has_lost_the_command(fragile):
    fragile.proxy.spoil(during_a_command(fragile.stop))

    with pytest.raises(CommandLostError):
        fragile.sandbox.run("sleep 30", timeout=60)


def test_no_sandbox_is_called_gone_while_the_server_cannot_be_asked(fragile):
    fragile.proxy.spoil()
    fragile.proxy.refuse()

    with pytest.raises(TransportError):
        fragile.sandbox.run("true")

    assert fragile.sandbox.gone == ""
    fragile.proxy.heal()
    assert fragile.sandbox.run("echo back").stdout == "back\n"


# A lease that ends while the server is away for a moment takes the sandbox of a test that runs.
def test_leases_outlive_a_server_that_is_away(bench):
    sandboxes = [bench.truth.create_sandbox(bench.opts).id for _ in range(3)]
    enough = threading.Event()

    def note(exchange):
        is_open = well(exchange)
        if len(bench.proxy.passed_on) >= len(sandboxes):
            enough.set()
        return is_open

    bench.proxy.spoil(Plan(reset_at_once, times=12, matching=RENEWALS), Plan(note, times=99, matching=RENEWALS))
    lease = Lease(bench.client, seconds=16)
    for sandbox in sandboxes:
        lease.hold(sandbox)
    came_back = enough.wait(60)
    lease.stop()

    assert came_back
    assert sorted(bench.alive()) == sorted(sandboxes)
    assert bench.swept() == []
