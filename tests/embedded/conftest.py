"""One agent, or one server, for all tests of a module that only send requests to it."""

from collections.abc import Iterator

import pytest

from tests.embedded.agent_process import Agent, running_agent
from tests.embedded.machine import Machine, running_server


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """An agent without a sandbox around it: its commands run on this machine."""
    with running_agent() as running:
        yield running


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A server as the user who runs the tests; a module may override it."""
    with running_server() as running:
        yield running
