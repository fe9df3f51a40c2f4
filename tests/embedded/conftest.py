"""One agent on this machine for all tests of a module that only talk to it."""

from collections.abc import Iterator

import pytest

from tests.embedded.agent_process import Agent, running_agent


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """An agent without a sandbox around it: what it runs, runs here."""
    with running_agent() as running:
        yield running
