"""The simulated pods follow the pool controller's rules, and equal seeds draw equal delays."""

import pytest

from tests.fleet.model import Delay, Model, Pool
from tests.fleet.pods import PodRequest, Pods

SURE = {"pod_start": Delay(6, 6), "restart": Delay(3, 3), "ending": Delay(2, 2)}


def pods(pool: Pool, **changes):
    return Pods(Model(pools={"p": pool}, **(SURE | changes)))


def ask(cluster_pods: Pods, number: int, now: float, pool: str = "p") -> list[PodRequest]:
    pod_requests = [PodRequest(pool) for _ in range(number)]
    for pod_request in pod_requests:
        cluster_pods.ask(pod_request, now)
    return pod_requests


def placed(pod_requests: list[PodRequest]) -> int:
    return sum(pod_request.placed_at is not None for pod_request in pod_requests)


def test_a_draw_depends_on_its_key_only():
    delay = Delay(2.0, 8.0)

    first = [delay.draw(1, "pod", number) for number in range(3)]

    assert [delay.draw(1, "pod", number) for number in reversed(range(3))] == first[::-1]
    assert delay.draw(2, "pod", 0) != first[0]


def test_draws_have_the_median_and_the_percentile_of_their_delay():
    drawn = sorted(Delay(2.0, 8.0).draw("any", number) for number in range(4000))

    assert drawn[2000] == pytest.approx(2.0, rel=0.1)
    assert drawn[3800] == pytest.approx(8.0, rel=0.15)


def test_a_warm_pod_is_given_at_once_and_the_buffer_refilled():
    cluster_pods = pods(Pool(max_pods=10, buffer_min=2, buffer_max=4, max_unavailable=1.0))
    (first, *_) = ask(cluster_pods, 3, now=1.0)

    late = ask(cluster_pods, 1, now=1.1)
    cluster_pods.advance(7.2)

    assert (first.placed_at, first.ready_at) == (1.0, 1.0)
    assert late[0].placed_at == pytest.approx(7.0, abs=0.2)


def test_a_pool_is_never_larger_than_its_maximum():
    cluster_pods = pods(Pool(max_pods=4, buffer_min=4, buffer_max=8, max_unavailable=1.0))

    pod_requests = ask(cluster_pods, 10, now=0.0)
    cluster_pods.advance(1000.0)

    assert placed(pod_requests) == 4


def test_only_some_pods_start_at_once():
    cluster_pods = pods(Pool(max_pods=100, buffer_min=0, buffer_max=0, max_unavailable=0.25))

    pod_requests = ask(cluster_pods, 8, now=0.0)
    cluster_pods.advance(6.5)

    assert 0 < placed(pod_requests) <= 2


@pytest.mark.parametrize(
    ("recycle", "seconds"), [pytest.param("Delete", 8.0, id="delete"), pytest.param("Restart", 3.0, id="restart")]
)
def test_a_used_pod_is_replaced_or_restarted(recycle, seconds):
    cluster_pods = pods(Pool(max_pods=1, min_pods=1, buffer_min=0, buffer_max=1, recycle=recycle))
    first, second = ask(cluster_pods, 2, now=0.0)

    cluster_pods.withdraw(first, 10.0)
    cluster_pods.advance(100.0)

    assert second.placed_at == pytest.approx(10.0 + seconds)


def test_without_a_pool_a_sandbox_waits_for_room_and_for_its_pod():
    cluster_pods = pods(Pool(), nodes_hold=1)
    first, second = ask(cluster_pods, 2, now=0.0, pool="")

    cluster_pods.withdraw(first, 10.0)
    cluster_pods.advance(50.0)

    assert (first.ready_at, second.placed_at, second.ready_at) == (6.0, 12.0, 18.0)


def test_a_withdrawn_request_takes_no_pod():
    cluster_pods = pods(Pool(max_pods=1, min_pods=1, buffer_max=1, buffer_min=0))
    first, second, third = ask(cluster_pods, 3, now=0.0)

    cluster_pods.withdraw(second, 1.0)
    cluster_pods.withdraw(first, 2.0)
    cluster_pods.advance(50.0)

    assert (second.placed_at, placed([third])) == (None, 1)


def test_the_numbers_of_pods_are_what_the_seed_draws():
    runs = []
    for _ in range(2):
        cluster_pods = Pods(Model(pools={"p": Pool(max_pods=20, max_unavailable=1.0)}, seed=7))
        pod_requests = ask(cluster_pods, 18, now=0.0)
        cluster_pods.advance(1000.0)
        runs.append([pod_request.placed_at for pod_request in pod_requests])

    assert runs[0] == runs[1]
