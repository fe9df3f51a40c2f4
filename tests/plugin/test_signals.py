"""SIGTERM, SIGHUP and SIGQUIT are Ctrl-C for a run with sandboxes, unless other code handles them."""

import faulthandler
import os
import signal
import threading

import pytest

from pytest_opensandbox.plugin.signals import Signals

NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
EACH = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _default_handlers():
    before = {number: signal.signal(number, signal.SIG_DFL) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@EACH
def test_a_signal_is_a_keyboard_interrupt_that_says_its_name(number):
    Signals(enabled=True).take()

    with pytest.raises(KeyboardInterrupt, match=f"{number.name} received"):
        signal.raise_signal(number)


@EACH
def test_what_was_taken_is_given_back(number):
    signals = Signals(enabled=True)
    signals.take()

    signals.give_back()

    assert signal.getsignal(number) is signal.SIG_DFL


@EACH
@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_a_signal_that_other_code_handles_is_left_alone(number, theirs):
    signal.signal(number, theirs)

    Signals(enabled=True).take()

    assert signal.getsignal(number) is theirs


@EACH
def test_a_signal_for_which_faulthandler_is_registered_is_left_alone(number, tmp_path):
    """Python's own table does not know of it."""
    with open(tmp_path / "log", "w+") as log:
        faulthandler.register(number, file=log)
        try:
            Signals(enabled=True).take()

            signal.raise_signal(number)
        finally:
            faulthandler.unregister(number)
        log.seek(0)
        assert "most recent call first" in log.read()


def test_a_handler_that_was_put_in_place_later_stays():
    signals = Signals(enabled=True)
    signals.take()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    signals.give_back()

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_nothing_is_taken_where_the_option_says_no():
    Signals(enabled=False).take()

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_which_may_not_set_handlers_takes_and_gives_nothing():
    signals = Signals(enabled=True)
    signals.take()
    thread = threading.Thread(target=lambda: (Signals(enabled=True).take(), signals.give_back()))

    thread.start()
    thread.join()

    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_a_forked_child_dies_of_the_signal_as_multiprocessing_expects():
    signals = Signals(enabled=True)
    signals.take()

    child = os.fork()
    if child == 0:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
