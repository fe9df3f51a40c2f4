"""The fixtures, and the factory that one of them returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandbox_opts import NetworkPolicy
from pytest_opensandbox.errors import NotFoundError, OpenSandboxError, SandboxError, TransportError
from pytest_opensandbox.plugin.marker import request_of
from pytest_opensandbox.plugin.run import RUN, Run
from pytest_opensandbox.plugin.server import DYING_SECONDS
from pytest_opensandbox.provisioning.sandbox_request import SandboxRequest
from pytest_opensandbox.provisioning.setup import Put, Setup
from pytest_opensandbox.settings.settings import Settings

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
    acquired = None
    # Where Ctrl-C comes during set-up, pytest runs neither the code after a yield nor a finalizer; this it does run.
    try:
        acquired = _acquire(run, request)
        yield acquired
    finally:
        if acquired is not None:
            run.release(acquired)


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
        run.release_all()


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


class SandboxFactory:
    """Makes sandboxes; call it, and use the result as a context manager or leave its end to pytest."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(
        self,
        image: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
        timeout: float | None = None,
        network: NetworkPolicy | Sequence[str] | str | bool | None = None,
        snapshot: Snapshot | str | None = None,
        pool: str | None = None,
        setup: Setup | None = None,
        put: Put | None = None,
    ) -> Sandbox:
        """Create a sandbox and return it once commands can run in it.

        Args:
            image: image reference; default ``--opensandbox-image``.
            env: environment of everything that runs in it.
            resources: limits such as ``{"cpu": "1", "memory": "1Gi"}``; default ``--opensandbox-resources``.
            timeout: seconds that a command may take; default ``--opensandbox-command-timeout``.
            network: "none" or False for no network, host names for those only; None for what the server allows.
            snapshot: a snapshot to restore, or its id, instead of an image.
            pool: pool that it is taken from, "" for none; default ``--opensandbox-pool`` where nothing else is asked.
            setup: shell command, or several, run once per run, image and files; the sandbox is restored from their
                snapshot; "" for none. Default ``--opensandbox-setup``, for a snapshot none.
            put: paths on this machine, relative to the rootdir, and absolute paths in the sandbox, where they lie
                before the setup runs; {} for none. Default ``--opensandbox-put``, for a snapshot none.

        Raises:
            ConfigError: an argument breaks a rule.
            ServerStartError: no server can be had.
            ApiError: the server refuses.
            SandboxFailedError: it ended before it was ready.
            ReadyTimeoutError: it was not ready in time.
            SetupError: the setup did not exit with 0, now or before in this run.
            SnapshotFailedError: what the setup made could not be kept.
            TransportError: the server does not answer.
        """
        request = SandboxRequest(
            image=image,
            env=env,
            resources=resources,
            timeout=timeout,
            network=network,
            snapshot=snapshot,
            pool=pool,
            setup=setup,
            put=put,
        )
        return self._run.acquire(request)


def _acquire(run: Run, request: pytest.FixtureRequest) -> Sandbox:
    """Return a sandbox; an error fails the test with its text alone, for no line of the test is to blame."""
    try:
        return run.acquire(request_of(request))
    except OpenSandboxError as exc:
        error = str(exc)
        if isinstance(exc, (NotFoundError, SandboxError, TransportError)):
            # A server that is ending still answers for a moment, and would fail the tests that follow, too.
            run.check_server(within=DYING_SECONDS)
    pytest.fail(f"opensandbox: {error}", pytrace=False)
