"""The fixtures, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_opensandbox.errors import NotFoundError, OpenSandboxError, SandboxError, TransportError
from pytest_opensandbox.plugin.factory import SandboxFactory
from pytest_opensandbox.plugin.marker import recipe_of
from pytest_opensandbox.plugin.run import DYING_SECONDS, RUN, Run
from pytest_opensandbox.settings.config import Settings

if TYPE_CHECKING:
    from pytest_opensandbox.client.client import Client
    from pytest_opensandbox.sandbox.sandbox import Sandbox


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A fresh, isolated sandbox for this test: ready when the test starts, gone after it.

    ``sandbox.run("echo hi").stdout`` runs a command, ``sandbox.put`` and ``sandbox.get`` copy files.
    ``@pytest.mark.sandbox(image=..., env=..., resources=..., timeout=..., network=..., pool=..., setup=..., put=...)``
    says what it is made of; a ``setup`` runs once, and each test gets a sandbox restored from what it left.
    ``@pytest.mark.parametrize("sandbox", ["python:3.12", {"image": ..., "env": ...}], indirect=True)`` runs the test
    once for each image, or mapping of the marker's arguments; these win over the marker.
    """
    run = request.config.stash[RUN]
    box = None
    # pytest runs neither the code after a yield nor a finalizer where Ctrl-C comes during set-up; this it does run.
    try:
        box = _make(run, request)
        yield box
    finally:
        if box is not None:
            run.close_box(box)


@pytest.fixture(scope="session")
def sandbox_factory(pytestconfig: pytest.Config) -> Iterator[SandboxFactory]:
    """A callable that makes further sandboxes: ``sandbox_factory(image="python:3.12", env={"CI": "1"})``.

    Each one is a context manager. One that is made in a test's own body goes with that test at the latest; one that a
    fixture makes goes when the fixture closes it, or at the end of the session. The marker does not apply to them.
    """
    run = pytestconfig.stash[RUN]
    try:
        yield SandboxFactory(run)
    finally:
        run.close_boxes()


@pytest.fixture(scope="session")
def opensandbox_client(pytestconfig: pytest.Config) -> Client:
    """The ``Client`` for this run's server, for what the handles do not offer.

    A sandbox that is created with it carries no tags of the run: delete it, nobody else does.
    """
    run = pytestconfig.stash[RUN]
    error = ""
    try:
        return run.client()
    except OpenSandboxError as exc:
        error = str(exc)
    pytest.fail(f"opensandbox: {error}", pytrace=False)


@pytest.fixture(scope="session")
def opensandbox_settings(pytestconfig: pytest.Config) -> Settings:
    """The frozen ``Settings`` of this run: url, image, limits and time limits, and where each value came from."""
    return pytestconfig.stash[RUN].settings


def _make(run: Run, request: pytest.FixtureRequest) -> Sandbox:
    """Make a sandbox; trouble fails the test with its text alone, for no line of the test is to blame."""
    try:
        return run.make(recipe_of(request))
    except OpenSandboxError as exc:
        error = str(exc)
        if isinstance(exc, (NotFoundError, SandboxError, TransportError)):
            # A server that is ending still answers for a moment, and would fail the tests that follow, too.
            run.look_after_server(within=DYING_SECONDS)
    pytest.fail(f"opensandbox: {error}", pytrace=False)
