"""The fixtures, and the factory that one of them returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandbox_opts import NetworkPolicy
from pytest_opensandbox.errors import NotFoundError, OpenSandboxError, SandboxError, TransportError
from pytest_opensandbox.plugin.marker import resolved_request
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
    """A fresh, isolated sandbox for this test: ready when the test starts, deleted after it.

    ``sandbox.run("echo hi").stdout`` runs a command, ``sandbox.put`` and ``sandbox.get`` copy files.
    ``@pytest.mark.sandbox(image=..., env=..., resources=..., timeout=..., network=..., pool=..., setup=..., put=...)``
    describes it. A ``setup`` runs once, and each test gets a sandbox that is restored from the snapshot after it.
    ``@pytest.mark.parametrize("sandbox", ["python:3.12", {"image": ..., "env": ...}], indirect=True)`` runs the test
    once for each image, or mapping of the marker's arguments. The parameter wins over the marker.
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
    """A callable that creates further sandboxes: ``sandbox_factory(image="python:3.12", env={"CI": "1"})``.

    Each sandbox is a context manager. One that a test's own body creates is deleted with that test at the latest. One
    that a fixture creates is deleted when the fixture closes it, or at the end of the session. The marker does not
    apply to them.
    """
    run = pytestconfig.stash[RUN]
    try:
        yield SandboxFactory(run)
    finally:
        run.release_all()


@pytest.fixture(scope="session")
def opensandbox_client(pytestconfig: pytest.Config) -> Client:
    """The ``Client`` for this run's server, for calls that the handles do not offer.

    A sandbox that the client creates carries no labels of the run, so that no sweep deletes it: delete it yourself.
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
    """The frozen ``Settings`` of this run: url, image, limits and timeouts, and the source of each value."""
    return pytestconfig.stash[RUN].settings


class SandboxFactory:
    """Creates sandboxes on call; use the result as a context manager, or leave its deletion to pytest."""

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
            env: environment of every command in the sandbox.
            resources: limits such as ``{"cpu": "1", "memory": "1Gi"}``; default ``--opensandbox-resources``.
            timeout: seconds that a command may take; default ``--opensandbox-command-timeout``.
            network: "none" or False for no network, host names for those only; None for what the server allows.
            snapshot: a snapshot to restore, or its id, instead of an image.
            pool: pool that it is taken from, "" for none; default ``--opensandbox-pool``, unless ``image``,
                ``resources``, ``network`` or ``snapshot`` is given.
            setup: shell command, or several, run once per run, image and files. The sandbox is restored from the
                snapshot after them. "" for none. Default ``--opensandbox-setup``; for a snapshot none.
            put: paths on this machine, relative to the rootdir, and absolute paths in the sandbox. The files are
                copied before the setup runs. {} for none. Default ``--opensandbox-put``; for a snapshot none.

        Raises:
            ConfigError: an argument breaks a rule.
            ServerStartError: no server can be started or reached.
            ApiError: the server refuses.
            SandboxFailedError: the sandbox ended before it was ready.
            ReadyTimeoutError: it was not ready in time.
            SetupError: the setup did not exit with 0, now or before in this run.
            SnapshotFailedError: the snapshot after the setup failed, now or before in this run.
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
        run = self._run
        return run.acquire(request.resolve(run.settings, root=run.config.rootpath))


def _acquire(run: Run, request: pytest.FixtureRequest) -> Sandbox:
    """Return a sandbox; an error fails the test with its text alone, for no line of the test is to blame."""
    try:
        return run.acquire(resolved_request(request, run.settings))
    except OpenSandboxError as exc:
        error = str(exc)
        if isinstance(exc, (NotFoundError, SandboxError, TransportError)):
            # A server that is ending still answers for a moment, and would fail the tests that follow, too.
            run.check_server(within=DYING_SECONDS)
    pytest.fail(f"opensandbox: {error}", pytrace=False)
