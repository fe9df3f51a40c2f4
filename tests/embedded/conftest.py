"""One agent, or one server, on this machine for all tests of a module that only talk to it."""

from collections.abc import Iterator

import pytest

from tests.embedded.agent_process import Agent, running_agent
from tests.embedded.machine import Machine, running_server


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """An agent without a sandbox around it: what it runs, runs here."""
    with running_agent() as running:
        yield running


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A server as the user who runs the tests; a module that wants another one says so."""
    with running_server() as running:
        yield running
