"""The simulated cluster keeps the rules that it is a model of, and draws the same again for the same seed."""

import pytest

from tests.fleet.model import Delay, Model, Pool
from tests.fleet.pods import Pods, Wish

SURE = {"pod_start": Delay(6, 6), "restart": Delay(3, 3), "ending": Delay(2, 2)}


def pods(pool: Pool, **changes):
    return Pods(Model(pools={"p": pool}, **(SURE | changes)))


def ask(there: Pods, number: int, now: float, pool: str = "p") -> list[Wish]:
    wishes = [Wish(pool) for _ in range(number)]
    for wish in wishes:
        there.ask(wish, now)
    return wishes


def placed(wishes: list[Wish]) -> int:
    return sum(wish.placed_at is not None for wish in wishes)


def test_a_draw_depends_on_its_key_and_on_nothing_before():
    delay = Delay(2.0, 8.0)

    first = [delay.draw(1, "pod", number) for number in range(3)]

    assert [delay.draw(1, "pod", number) for number in reversed(range(3))] == first[::-1]
    assert delay.draw(2, "pod", 0) != first[0]


def test_draws_have_the_median_and_the_percentile_that_they_are_named_by():
    drawn = sorted(Delay(2.0, 8.0).draw("any", number) for number in range(4000))

    assert drawn[2000] == pytest.approx(2.0, rel=0.1)
    assert drawn[3800] == pytest.approx(8.0, rel=0.15)


def test_a_warm_pod_is_there_at_once_and_the_buffer_is_filled_again():
    there = pods(Pool(max_pods=10, buffer_min=2, buffer_max=4, max_unavailable=1.0))
    (first, *_) = ask(there, 3, now=1.0)

    late = ask(there, 1, now=1.1)
    there.move_on(7.2)

    assert (first.placed_at, first.ready_at) == (1.0, 1.0)
    assert late[0].placed_at == pytest.approx(7.0, abs=0.2)


def test_a_pool_is_never_larger_than_its_maximum():
    there = pods(Pool(max_pods=4, buffer_min=4, buffer_max=8, max_unavailable=1.0))

    wishes = ask(there, 10, now=0.0)
    there.move_on(1000.0)

    assert placed(wishes) == 4


def test_only_some_pods_start_at_once():
    there = pods(Pool(max_pods=100, buffer_min=0, buffer_max=0, max_unavailable=0.25))

    wishes = ask(there, 8, now=0.0)
    there.move_on(6.5)

    assert 0 < placed(wishes) <= 2


@pytest.mark.parametrize(
    ("recycle", "seconds"), [pytest.param("Delete", 8.0, id="delete"), pytest.param("Restart", 3.0, id="restart")]
)
def test_a_used_pod_is_replaced_or_restarted(recycle, seconds):
    there = pods(Pool(max_pods=1, min_pods=1, buffer_min=0, buffer_max=1, recycle=recycle))
    first, second = ask(there, 2, now=0.0)

    there.withdraw(first, 10.0)
    there.move_on(100.0)

    assert second.placed_at == pytest.approx(10.0 + seconds)


def test_without_a_pool_a_sandbox_waits_for_a_place_and_then_for_its_pod():
    there = pods(Pool(), nodes_hold=1)
    first, second = ask(there, 2, now=0.0, pool="")

    there.withdraw(first, 10.0)
    there.move_on(50.0)

    assert (first.ready_at, second.placed_at, second.ready_at) == (6.0, 12.0, 18.0)


def test_who_waits_no_longer_takes_no_pod():
    there = pods(Pool(max_pods=1, min_pods=1, buffer_max=1, buffer_min=0))
    first, second, third = ask(there, 3, now=0.0)

    there.withdraw(second, 1.0)
    there.withdraw(first, 2.0)
    there.move_on(50.0)

    assert (second.placed_at, placed([third])) == (None, 1)


def test_the_numbers_of_pods_are_what_the_seed_draws():
    runs = []
    for _ in range(2):
        there = Pods(Model(pools={"p": Pool(max_pods=20, max_unavailable=1.0)}, seed=7))
        wishes = ask(there, 18, now=0.0)
        there.move_on(1000.0)
        runs.append([wish.placed_at for wish in wishes])

    assert runs[0] == runs[1]
