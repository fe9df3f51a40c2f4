"""Lines on the user's terminal while a test runs and pytest captures its output."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress

import pytest

from pytest_opensandbox.errors import SlowSandboxWarning
from pytest_opensandbox.text import escape


class Terminal:
    """Writes lines to the standard error of the process's start, before pytest redirects it to capture output.

    As a plugin of a controller it also writes the lines of xdist's workers.

    Args:
        plugins: pytest's plugins, with the terminal reporter once pytest has made it; None for no reporter.
    """

    def __init__(self, plugins: pytest.PytestPluginManager | None = None) -> None:
        self._fd = _standard_error()
        self._plugins = plugins

    def notify(self, text: str, item: pytest.Item | None) -> None:
        """Write a line, also where pytest has begun one; safe to call from any thread.

        Args:
            text: the thing that the test waits for.
            item: the test; None outside a test.
        """
        self._write(text, item.nodeid if item is not None else "")

    def close(self) -> None:
        """Write nothing more; safe to call again."""
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            os.close(fd)

    @pytest.hookimpl(trylast=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Show a worker's line at once, and remove it from the warnings summary, which comes after the wait."""
        if isinstance(warning_message.message, SlowSandboxWarning):
            self._write(str(warning_message.message), nodeid)
            self._unlist(str(warning_message.message))

    def _unlist(self, text: str) -> None:
        """Remove the warning that the reporter has just listed, so that it is not shown again."""
        reporter = self._plugins.get_plugin("terminalreporter") if self._plugins is not None else None
        listed = reporter.stats.get("warnings", []) if reporter is not None else []
        if listed and text in listed[-1].message:
            del listed[-1]

    def _write(self, text: str, nodeid: str) -> None:
        where = f"{nodeid}: " if nodeid else ""
        # A closed terminal must not fail the test.
        with suppress(OSError):
            os.write(self._fd, f"\nopensandbox: {escape(where + text)}\n".encode())


def notify_controller(config: pytest.Config, text: str, item: pytest.Item | None) -> None:
    """Report to the controller of this worker that a test waits.

    A worker has no terminal. xdist sends recorded warnings to the controller while a test runs, and nothing else that
    a plugin can add. No setting turns such a warning into an error, and the controller's terminal shows it once.

    Args:
        config: the worker's.
        text: the thing that the test waits for.
        item: the test that waits; None outside a test.
    """
    path, line, _ = item.location if item is not None else ("", None, "")
    message = warnings.WarningMessage(SlowSandboxWarning(text), SlowSandboxWarning, path, (line or 0) + 1)
    recorded = {
        "warning_message": message,
        "when": "runtest",
        "nodeid": item.nodeid if item is not None else "",
        "location": None,
    }
    # A controller that has ended must not fail the test.
    with suppress(OSError):
        config.hook.pytest_warning_recorded.call_historic(kwargs=recorded)


def _standard_error() -> int:
    """Return a duplicate of the descriptor of standard error, -1 where there is none."""
    for stream in (sys.stderr, sys.__stderr__):
        # A stream that is no file has no descriptor, as inside another pytest.
        with suppress(AttributeError, OSError, ValueError):
            return os.dup(stream.fileno())  # type: ignore[union-attr]  # None is suppressed with the rest
    return -1
