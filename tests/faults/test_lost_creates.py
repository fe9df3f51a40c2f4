"""A create is sent once, and what it made is found again wherever its answer was cut off."""

import json

import pytest

from pytest_opensandbox import OpenSandboxError, TransportError
from pytest_opensandbox.sandbox.tracking import TAG_CREATE
from tests.faults.proxy import HEAD_END, Plan

pytestmark = pytest.mark.thorough

CREATE = r"^POST \S*/sandboxes$"
LISTING = r"^GET \S*/sandboxes\?"
PLACES = {
    "nothing": lambda message: 0,
    "a byte": lambda message: 1,
    "half of the first line": lambda message: message.index(b"\r\n") // 2,
    "the first line but its end": lambda message: message.index(b"\r\n"),
    "the first line": lambda message: message.index(b"\r\n") + 2,
    "half of the headers": lambda message: message.index(HEAD_END) // 2,
    "the headers but the empty line": lambda message: message.index(HEAD_END) + 2,
    "the headers": lambda message: message.index(HEAD_END) + 4,
    "a byte of the body": lambda message: message.index(HEAD_END) + 5,
    "half of the body": lambda message: (message.index(HEAD_END) + len(message)) // 2,
    "all but the last byte": lambda message: len(message) - 1,
    "everything": len,
}
HOW = {"close": False, "reset": True}


def creates(bench):
    return [request for request in bench.proxy.seen if request.startswith("POST") and request.endswith("/sandboxes")]


@pytest.mark.parametrize("reset", HOW.values(), ids=HOW)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_create_whose_answer_is_cut_off_is_adopted(bench, place, reset):
    def cut(exchange):
        answer = exchange.answer()
        exchange.send(answer[: place(answer)])
        return exchange.reset() if reset else False

    bench.proxy.spoil(Plan(cut, matching=CREATE))
    sandbox = bench.launch()
    bench.proxy.heal()

    assert bench.alive() == [sandbox.id]
    assert len(creates(bench)) == 1
    assert bench.swept() == []


@pytest.mark.parametrize("reset", HOW.values(), ids=HOW)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_create_that_is_cut_off_is_sent_once_and_leaves_nothing_unseen(bench, place, reset):
    def cut(exchange):
        exchange.pass_part(place(exchange.request))
        return exchange.reset() if reset else False

    bench.proxy.spoil(Plan(cut, matching=CREATE))
    try:
        made = [bench.launch().id]
    except OpenSandboxError:
        made = []
    bench.proxy.heal()

    assert len(creates(bench)) == 1
    # The server may still be at what it was given as a whole.
    assert made == bench.alive() or place is len
    assert bench.swept() == []


@pytest.mark.parametrize("at", range(300, 350, 4))
def test_no_byte_of_an_answer_is_a_place_where_it_may_be_cut_unseen(bench, at):
    def cut(exchange):
        exchange.send(exchange.answer()[:at])
        return False

    bench.proxy.spoil(Plan(cut, matching=CREATE))
    made = bench.launch().id
    bench.proxy.heal()

    assert bench.alive() == [made]
    assert bench.swept() == []


def nothing_yet(exchange):
    """Answer a listing without what is there, as a server does that lists from a cache."""
    body = json.dumps({"items": [], "pagination": {"hasNextPage": False}}).encode()
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return True


def lose(exchange):
    exchange.answer()
    return exchange.reset()


def test_a_listing_that_shows_it_a_moment_later_is_waited_for(bench):
    bench.proxy.spoil(Plan(lose, matching=CREATE), Plan(nothing_yet, times=3, matching=LISTING))

    sandbox = bench.launch()

    assert bench.alive() == [sandbox.id]
    assert bench.swept() == []


def test_a_server_that_is_away_after_a_lost_create_is_asked_again(bench):
    bench.proxy.spoil(Plan(lose, matching=CREATE), Plan(lambda exchange: exchange.reset(), times=9, matching=LISTING))

    sandbox = bench.launch()

    assert bench.alive() == [sandbox.id]
    assert bench.swept() == []


# On Docker a create goes on, pulling an image, when its caller has long hung up.
def test_a_sandbox_that_is_made_when_nobody_waits_any_more_is_swept(bench):
    def make_later(exchange):
        exchange.hold()
        # Only when the proxy is healed, which is after the lookup.
        bench.proxy.healed.wait(30)
        exchange.answer()
        return False

    bench.proxy.spoil(Plan(make_later, matching=CREATE))
    with pytest.raises(TransportError):
        bench.launch()
    bench.proxy.heal()

    assert len(bench.alive()) == 1
    assert bench.swept() == []


def test_a_create_that_was_never_sent_is_not_looked_for(bench):
    bench.proxy.spoil()
    bench.proxy.refuse()

    with pytest.raises(TransportError) as caught:
        bench.launch()

    assert caught.value.unsent
    assert bench.proxy.seen == []


def test_every_create_can_be_told_from_every_other(bench):
    first, second = bench.launch(), bench.launch()

    assert first.metadata[TAG_CREATE] != second.metadata[TAG_CREATE]
    assert bench.swept() == []
