"""The hooks that a conftest.py or another plugin may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_opensandbox.client.sandbox_opts import SandboxOpts
    from pytest_opensandbox.sandbox.sandbox import Sandbox


@pytest.hookspec(firstresult=True)
def pytest_opensandbox_opts(config: pytest.Config, opts: SandboxOpts, nodeid: str) -> SandboxOpts | None:
    """Change what is asked of the server for one sandbox; the first answer that is not None counts.

    Called before each creation, after the options and the marker have been applied. Return
    ``dataclasses.replace(opts, env={**opts.env, "CI": "1"})``, or None to leave it as it is.
    The timeout and the run's own labels are set afterwards.

    Args:
        config: pytest's configuration.
        opts: what would be asked for; immutable.
        nodeid: the test that is running, also where a fixture of a wider scope asks; "" outside a test.
    """


@pytest.hookspec
def pytest_opensandbox_created(config: pytest.Config, sandbox: Sandbox, nodeid: str) -> None:
    """Look at, or prepare, a sandbox that has just become ready; an exception fails the test and deletes the sandbox.

    A setup has been done by then; the sandbox in which it was done once for all is shown to no hook.

    Args:
        config: pytest's configuration.
        sandbox: the handle; commands and copies work.
        nodeid: the test that is running, also where a fixture of a wider scope asks; "" outside a test.
    """


@pytest.hookspec
def pytest_opensandbox_closed(config: pytest.Config, sandbox: Sandbox) -> None:
    """Take note that a sandbox is gone; its id and history can still be read.

    Args:
        config: pytest's configuration.
        sandbox: the handle; commands and copies no longer work.
    """
