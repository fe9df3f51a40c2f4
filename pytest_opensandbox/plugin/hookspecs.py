"""Hooks that a conftest.py or another plugin may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_opensandbox.client.sandbox_opts import SandboxOpts
    from pytest_opensandbox.sandbox.sandbox import Sandbox


@pytest.hookspec(firstresult=True)
def pytest_opensandbox_opts(config: pytest.Config, opts: SandboxOpts, nodeid: str) -> SandboxOpts | None:
    """Change the request for one sandbox before it is sent; the first result that is not None counts.

    Called before each creation, after the options and the marker have been applied. Return
    ``dataclasses.replace(opts, env={**opts.env, "CI": "1"})``, or None to leave the request as it is.
    The time to live and the run's own labels are set afterwards.

    Args:
        config: pytest's configuration.
        opts: the request; immutable.
        nodeid: the test that is running, also where a fixture of a wider scope asks; "" outside a test.
    """


@pytest.hookspec
def pytest_opensandbox_created(config: pytest.Config, sandbox: Sandbox, nodeid: str) -> None:
    """Inspect or prepare a sandbox that has just become ready; an exception fails the test and deletes the sandbox.

    A setup has been done by then. The sandbox in which a setup runs, to be kept as a snapshot, is passed to no hook.

    Args:
        config: pytest's configuration.
        sandbox: the handle; commands and copies work.
        nodeid: the test that is running, also where a fixture of a wider scope asks; "" outside a test.
    """


@pytest.hookspec
def pytest_opensandbox_closed(config: pytest.Config, sandbox: Sandbox) -> None:
    """Take note that a sandbox was closed; its id and history can still be read.

    Called once for each sandbox. Where a test or a fixture closes one by itself, the call comes at the end of the
    test's body or teardown. A sandbox that the server could not delete is passed, too; the sweep tries again.

    Args:
        config: pytest's configuration.
        sandbox: the handle; commands and copies no longer work.
    """
