"""The way to the terminal: past the capture, and for a worker by way of its controller."""

import os
import warnings

import pytest

from pytest_opensandbox import SlowSandboxWarning
from pytest_opensandbox.reporting.terminal import Terminal


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """Make a terminal that writes to a file, and return both."""
    path = tmp_path / "terminal"
    with path.open("wb") as file:
        monkeypatch.setattr("sys.stderr", file)
        terminal = Terminal()
    yield terminal, path
    terminal.close()


def test_a_line_names_its_test_and_cannot_steer_the_terminal(shown, request):
    terminal, path = shown

    terminal.notify("waiting for \x1b[2Jimage", request.node)

    assert path.read_text() == f"\nopensandbox: {request.node.nodeid}: waiting for \\x1b[2Jimage\n"


def test_what_a_worker_handed_up_is_shown_and_another_warning_is_not(shown):
    terminal, path = shown
    ours, other = SlowSandboxWarning("waiting"), UserWarning("other")

    for message in (ours, other):
        terminal.pytest_warning_recorded(warnings.WarningMessage(message, type(message), "f", 1), "a::b")

    assert path.read_text() == "\nopensandbox: a::b: waiting\n"


def test_a_terminal_may_be_closed_twice_and_written_to_afterwards(shown):
    terminal, path = shown
    terminal.close()
    terminal.close()

    terminal.notify("too late", None)

    assert path.read_text() == ""


def test_a_process_without_standard_error_has_a_terminal_that_is_silent(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr("sys.__stderr__", None)
    before = len(os.listdir("/proc/self/fd"))

    Terminal().notify("not shown", None)

    assert len(os.listdir("/proc/self/fd")) == before
