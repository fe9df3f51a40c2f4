"""The way to the user's terminal while a test runs and its output is captured."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress

import pytest

from pytest_opensandbox.errors import SlowSandboxWarning
from pytest_opensandbox.text import escape


class Terminal:
    """Writes lines to the standard error that this process began with; what pytest captures is put in its place later.

    As a plugin it also shows what xdist's workers hand up.

    Args:
        plugins: pytest's, among which the reporter is found once there is one; None for no reporter.
    """

    def __init__(self, plugins: pytest.PytestPluginManager | None = None) -> None:
        self._fd = _standard_error()
        self._plugins = plugins

    def notify(self, text: str, item: pytest.Item | None) -> None:
        """Write a line of its own, whatever pytest has written on the present one; safe to call from any thread.

        Args:
            text: what the test waits for.
            item: the test, None outside a test.
        """
        self._write(text, item.nodeid if item is not None else "")

    def close(self) -> None:
        """Write nothing more; safe to call again."""
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            os.close(fd)

    @pytest.hookimpl(trylast=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Show at once what a worker has handed up, and keep it out of the summary, where the wait is long over."""
        if isinstance(warning_message.message, SlowSandboxWarning):
            self._write(str(warning_message.message), nodeid)
            self._take_back(str(warning_message.message))

    def _take_back(self, text: str) -> None:
        """Remove from the reporter's list what it has just taken in: a line that was shown is not shown again."""
        reporter = self._plugins.get_plugin("terminalreporter") if self._plugins is not None else None
        listed = reporter.stats.get("warnings", []) if reporter is not None else []
        if listed and text in listed[-1].message:
            del listed[-1]

    def _write(self, text: str, nodeid: str) -> None:
        where = f"{nodeid}: " if nodeid else ""
        # A terminal that has gone away is no trouble of the test's.
        with suppress(OSError):
            os.write(self._fd, f"\nopensandbox: {escape(where + text)}\n".encode())


def notify_controller(config: pytest.Config, text: str, item: pytest.Item | None) -> None:
    """Tell the controller of this worker that a test waits.

    A worker has no terminal. A recorded warning is the one thing of its own that xdist carries to the controller
    while a test runs. No setting turns it into an error, and the controller's terminal shows it once.

    Args:
        config: the worker's.
        text: what it waits for.
        item: the test that waits, None outside a test.
    """
    path, line, _ = item.location if item is not None else ("", None, "")
    message = warnings.WarningMessage(SlowSandboxWarning(text), SlowSandboxWarning, path, (line or 0) + 1)
    recorded = {
        "warning_message": message,
        "when": "runtest",
        "nodeid": item.nodeid if item is not None else "",
        "location": None,
    }
    # A controller that has gone away is no trouble of the test's.
    with suppress(OSError):
        config.hook.pytest_warning_recorded.call_historic(kwargs=recorded)


def _standard_error() -> int:
    """Return a descriptor of our own, -1 where there is no standard error."""
    for stream in (sys.stderr, sys.__stderr__):
        # Something that only looks like a file has none, as inside another pytest.
        with suppress(AttributeError, OSError, ValueError):
            return os.dup(stream.fileno())  # type: ignore[union-attr]  # None is suppressed with the rest
    return -1
