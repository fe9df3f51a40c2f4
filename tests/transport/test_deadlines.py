"""A time limit holds for every request of its block, and for nothing else."""

import threading
from math import inf

import pytest

from pytest_opensandbox import Client
from pytest_opensandbox.errors import TransportError
from pytest_opensandbox.transport.retry import current_deadline, time_limit
from tests.scripted_servers import Reply, serving


def test_without_a_limit_there_is_no_end():
    assert current_deadline().seconds_left == inf


def test_the_nearer_of_two_limits_counts_and_ends_with_its_block():
    with time_limit(100), time_limit(1000):
        inner = current_deadline().seconds_left
    with time_limit(1000):
        with time_limit(100):
            pass
        outer = current_deadline().seconds_left

    assert inner <= 100 < outer
    assert current_deadline().seconds_left == inf


def test_another_thread_has_no_limit():
    seen = []
    with time_limit(1):
        thread = threading.Thread(target=lambda: seen.append(current_deadline().seconds_left))
        thread.start()
        thread.join()

    assert seen == [inf]


def test_a_wait_that_a_server_asks_for_ends_at_the_limit():
    busy = Reply(503, headers={"Retry-After": "60"})
    with (
        serving(busy, busy) as server,
        Client(server.url) as client,
        time_limit(5),
        pytest.raises(Exception, match="503"),
    ):
        client.get_sandbox("a")

    assert len(server.seen) == 1


def test_a_silent_server_is_given_no_longer_than_the_limit(silent_url):
    with Client(silent_url) as client, time_limit(0.3), pytest.raises(TransportError, match=r"no byte within 0\.\d+ s"):
        client.list_sandboxes()


def test_after_the_limit_nothing_is_waited_for(silent_url):
    with Client(silent_url) as client, time_limit(-1), pytest.raises(TransportError, match="the time limit has passed"):
        client.list_sandboxes()


@pytest.fixture
def silent_url():
    """A server that takes connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
