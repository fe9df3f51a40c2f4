"""Fixtures of the fleet's tests: a small fast cluster, and a lifecycle on it that deletes its sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pytest_opensandbox import Client, SandboxOpts
from pytest_opensandbox.client.sandbox_opts import POOL_EXTENSION
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import RunTags
from tests.fleet.model import Model
from tests.fleet.server import API_KEY, Fleet, running

FromFleet = Callable[..., Lifecycle]


@pytest.fixture
def start() -> Iterator[Callable[..., Fleet]]:
    """Start a fleet in which a second lasts 20 ms, with changes to its model."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(running(Model(**{"time_factor": 0.02} | changes)))


@pytest.fixture
def lifecycle_of() -> Iterator[FromFleet]:
    """Make a lifecycle on a fleet."""
    with ExitStack() as stack:

        def make(fleet: Fleet, *, ready_timeout: float = 20.0, **client: Any) -> Lifecycle:
            found = stack.enter_context(Client(fleet.url, API_KEY, **client))
            lifecycle = Lifecycle(found, tags=RunTags("run"), ready_timeout=ready_timeout)
            stack.callback(lifecycle.close)
            return lifecycle

        yield make


@pytest.fixture
def pooled() -> SandboxOpts:
    """A sandbox from the pool."""
    return SandboxOpts(resource_limits={}, extensions={POOL_EXTENSION: "tests"})
