"""The messages about a wait: none while it is short, one for each phase when it is long."""

import threading
from contextlib import contextmanager

import pytest

from pytest_opensandbox.sandbox.progress import Progress


class Screen:
    """Collects the lines that a user would see, and waits for them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._shown = threading.Semaphore(0)

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        self._shown.release()

    def wait(self) -> bool:
        return self._shown.acquire(timeout=30)


@contextmanager
def progress_on(screen):
    progress = Progress(screen)
    progress.notice_seconds = 0.05
    yield progress
    progress.close()


@pytest.fixture
def screen() -> Screen:
    return Screen()


def threads_of_progress():
    return {thread for thread in threading.enumerate() if thread.name == "opensandbox-progress"}


def test_a_user_is_told_after_five_seconds():
    assert Progress(None).notice_seconds == 5


def test_a_phase_that_lasts_is_shown_once(screen):
    with progress_on(screen) as progress, progress.phases() as phases:
        phases.enter("first")
        assert screen.wait()
        phases.enter("second")
        assert screen.wait()
        phases.enter("first")
        phases.enter("third")
        assert screen.wait()

    assert screen.lines == [f"{phase} (0.05 s so far)" for phase in ("first", "second", "third")]


def test_a_phase_that_ends_in_time_is_not_shown(screen):
    with progress_on(screen) as progress:
        with progress.phases() as short:
            short.enter("short")
        with progress.phases() as phases:
            phases.enter("left")
            phases.enter("stays")
            assert screen.wait()

    assert screen.lines == ["stays (0.05 s so far)"]


def test_waits_of_several_threads_are_shown_each(screen):
    with progress_on(screen) as progress, progress.phases() as one, progress.phases() as other:
        one.enter("one")
        other.enter("other")
        assert screen.wait()
        assert screen.wait()

    assert sorted(screen.lines) == ["one (0.05 s so far)", "other (0.05 s so far)"]


def test_one_thread_serves_all_waits_and_ends_when_it_is_closed(screen):
    before = threads_of_progress()
    with progress_on(screen) as progress:
        for number in range(3):
            with progress.phases() as phases:
                phases.enter(str(number))
                assert screen.wait()
        (thread,) = threads_of_progress() - before

    thread.join(timeout=30)
    assert not thread.is_alive()


def test_without_a_user_no_thread_is_started():
    before = threads_of_progress()

    with progress_on(None) as progress, progress.phases() as phases:
        phases.enter("first")

        assert threads_of_progress() == before
