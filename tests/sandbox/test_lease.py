"""Sandboxes live as long as this process, however many they are and whatever the server does meanwhile."""

import threading
import time

from pytest_opensandbox import ApiError, Client, NotFoundError, TransportError
from pytest_opensandbox.sandbox.lease import Lease
from tests.scripted_servers import OneSandboxServer, Reply, as_json, serving


def threads_of_leases():
    return {thread for thread in threading.enumerate() if thread.name == "opensandbox-lease"}


def test_the_lease_thread_renews_until_it_is_stopped():
    before = threads_of_leases()
    renewed = threading.Event()

    class Server:
        def renew(self, sandbox_id, seconds):
            renewed.set()

    lease = Lease(Server(), seconds=0.01)
    lease.hold("x")

    assert renewed.wait(timeout=30)
    lease.stop()
    assert threads_of_leases() == before


def test_a_lease_outlives_an_absent_server_and_drops_ended_sandboxes():
    answers = {"away": TransportError("refused", method="POST", url="http://x"), "gone": NotFoundError(404)}
    asked = []

    class Server:
        def renew(self, sandbox_id, seconds):
            asked.append(sandbox_id)
            raise answers[sandbox_id]

    lease = Lease(Server(), seconds=3600)
    lease.hold("away")
    lease.hold("gone")

    lease.renew_all()
    lease.renew_all()

    lease.stop()
    assert sorted(asked) == ["away", "away", "gone"]


def test_many_sandboxes_are_renewed_at_once():
    together = threading.Barrier(8, timeout=20)

    class Server:
        def renew(self, sandbox_id, seconds):
            together.wait()

    lease = Lease(Server(), seconds=3600)
    for number in range(16):
        lease.hold(f"s{number}")

    lease.renew_all()

    lease.stop()
    assert not together.broken


def test_no_more_threads_renew_than_were_asked_for_and_none_stays():
    renewing = set()

    class Server:
        def renew(self, sandbox_id, seconds):
            renewing.add(threading.current_thread())
            threading.Event().wait(0.01)

    lease = Lease(Server(), seconds=3600, at_once=3)
    for number in range(12):
        lease.hold(f"s{number}")

    lease.renew_all()

    lease.stop()
    assert len(renewing) <= 3
    assert [thread for thread in renewing if thread.is_alive()] == [threading.current_thread()]


# Otherwise one answer that does not come costs all the others their lease.
def test_a_renewal_that_hangs_is_given_up_when_the_next_turn_is_due():
    held = threading.Event()
    server = OneSandboxServer(renew=[Reply(200, [held], framing="close"), as_json({})])
    with serving(server=server), Client(server.url) as client:
        lease = Lease(client, seconds=1)
        lease.hold("s1")
        started = time.monotonic()

        lease.renew_all()
        first = time.monotonic() - started
        lease.renew_all()

        held.set()
        lease.stop()
    assert server.calls.count("renew") >= 2
    assert first < 20


def test_turns_do_not_come_in_step():
    lease = Lease(object(), seconds=120)

    turns = [lease.pause_seconds for _ in range(20)]

    assert all(22.5 <= turn <= 30 for turn in turns)
    assert len(set(turns)) > 10


def test_a_sandbox_that_was_released_is_renewed_no_longer():
    renewed = []

    class Server:
        def renew(self, sandbox_id, seconds):
            renewed.append(sandbox_id)

    lease = Lease(Server(), seconds=3600)
    lease.hold("a")
    lease.hold("b")
    lease.release("a")

    lease.renew_all()

    lease.stop()
    assert renewed == ["b"]


class Flaky:
    """A server that renews nothing while it is away."""

    def __init__(self):
        self.is_away = True
        self.asked = []

    def renew(self, sandbox_id, seconds):
        self.asked.append(sandbox_id)
        if self.is_away:
            raise TransportError("refused", method="POST", url="http://x")


def test_a_server_that_was_away_is_asked_again_sooner_than_a_turn_later():
    server = Flaky()
    lease = Lease(server, seconds=160)
    lease.hold("s1")

    lease.renew_all()
    while_away = lease.pause_seconds
    server.is_away = False
    lease.renew_all()

    lease.stop()
    assert while_away <= 10
    assert 30 <= lease.pause_seconds <= 40


def test_what_could_not_be_renewed_comes_last_in_the_next_turn():
    asked = []

    class Server:
        def renew(self, sandbox_id, seconds):
            asked.append(sandbox_id)
            if sandbox_id == "bad":
                raise ApiError(500)

    lease = Lease(Server(), seconds=3600, at_once=1)
    lease.hold("bad")
    lease.hold("good")

    lease.renew_all()
    lease.renew_all()

    lease.stop()
    assert asked == ["bad", "good", "good", "bad"]
