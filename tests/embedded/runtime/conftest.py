"""A server and a sandbox for all tests of a module, once for each user."""

import pytest

from tests.embedded.machine import USERS, running_server


@pytest.fixture(scope="module", params=USERS)
def user(request):
    """The user who runs the server; None for the one who runs the tests."""
    return request.param


@pytest.fixture(scope="module")
def machine(user):
    """A server of this user."""
    with running_server(user=user) as machine:
        yield machine


@pytest.fixture(scope="module")
def sandbox(machine):
    """A sandbox on this server."""
    return machine.create()


@pytest.fixture
def run(machine, sandbox):
    """Runs a line of shell in the sandbox."""
    return lambda command: machine.run(sandbox, command)
