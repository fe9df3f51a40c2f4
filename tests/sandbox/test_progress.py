"""What a wait says of itself: nothing while it is short, each phase once when it is long."""

import threading
from contextlib import contextmanager

import pytest

from pytest_opensandbox.sandbox import progress as progress_room
from pytest_opensandbox.sandbox.progress import SILENCE_SECONDS, Progress


class Ear:
    """Hears what is told, and can wait for it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.news = threading.Semaphore(0)

    def __call__(self, text: str) -> None:
        self.heard.append(text)
        self.news.release()

    def listen(self) -> bool:
        return self.news.acquire(timeout=30)


@contextmanager
def phases_for(tell):
    progress = Progress(tell)
    with progress.phases() as phases:
        yield phases
    progress.close()


@pytest.fixture
def ear(monkeypatch) -> Ear:
    monkeypatch.setattr(progress_room, "SILENCE_SECONDS", 0.05)
    return Ear()


def test_a_user_wonders_after_five_seconds():
    assert SILENCE_SECONDS == 5


def test_a_phase_that_lasts_is_told_once(ear):
    with phases_for(ear) as phases:
        phases.enter("first")
        assert ear.listen()
        phases.enter("second")
        assert ear.listen()
        phases.enter("first")
        phases.enter("third")
        assert ear.listen()

    assert ear.heard == [f"{phase} (0.05 s so far)" for phase in ("first", "second", "third")]


def test_what_is_left_in_time_is_not_told(ear):
    progress = Progress(ear)
    with progress.phases() as short:
        short.enter("short")
    with progress.phases() as phases:
        phases.enter("left")
        phases.enter("stays")
        assert ear.listen()
    progress.close()

    assert ear.heard == ["stays (0.05 s so far)"]


def test_waits_of_several_threads_are_told_each(ear):
    progress = Progress(ear)
    with progress.phases() as one, progress.phases() as other:
        one.enter("one")
        other.enter("other")
        assert ear.listen()
        assert ear.listen()
    progress.close()

    assert sorted(ear.heard) == ["one (0.05 s so far)", "other (0.05 s so far)"]


def test_one_thread_serves_all_waits_and_ends_when_it_is_closed(ear):
    progress = Progress(ear)
    for number in range(3):
        with progress.phases() as phases:
            phases.enter(str(number))
            assert ear.listen()
    threads = [thread for thread in threading.enumerate() if thread is progress._thread]

    progress.close()

    (thread,) = threads
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_where_nobody_listens_no_thread_is_started():
    before = threading.active_count()

    with phases_for(None) as phases:
        phases.enter("first")

        assert threading.active_count() == before
