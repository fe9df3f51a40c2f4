"""Fixtures of the acceptance tests: pytest in a subprocess with this plugin, and a server that outlives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_opensandbox import ApiError, Client
from pytest_opensandbox.client.sandbox_opts import label_value
from pytest_opensandbox.plugin.run import RUN
from pytest_opensandbox.sandbox.tracking import TAG_PROJECT
from pytest_opensandbox.servers.server_process import ServerProcess
from pytest_opensandbox.settings.options import EMBEDDED
from pytest_opensandbox.settings.settings import Settings


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On other backends leave out the tests that start their own embedded server: they would be the same again."""
    if config.stash[RUN].settings.url == EMBEDDED:
        return
    here = Path(__file__).parent
    same = [item for item in items if here in item.path.parents and "server" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=same)
    items[:] = [item for item in items if item not in same]


@dataclass(frozen=True)
class Server:
    """A server of the outer run, so that a test can list its sandboxes when the inner pytest has ended."""

    url: str
    api_key: str
    image: str
    """The default image."""
    project: str
    """The project of the inner run; servers on the same Docker engine see each other's sandboxes."""

    def client(self) -> Client:
        return Client(self.url, self.api_key)

    def sandboxes(self) -> list[str]:
        """Return the ids of the project's sandboxes."""
        with self.client() as client:
            return [sandbox.id for sandbox in client.list_sandboxes({TAG_PROJECT: self.project})]

    def snapshots(self) -> list[str] | None:
        """Return the names of all snapshots, None if the server has no snapshots."""
        with self.client() as client:
            try:
                return [snapshot.name for snapshot in client.list_snapshots()]
            except ApiError:
                return None

    def leftovers(self) -> list[str]:
        """Return the ids of the project's sandboxes, and the names of all snapshots."""
        return [*self.sandboxes(), *(self.snapshots() or [])]


@pytest.fixture(autouse=True)
def _environment(clean_environment: None) -> None:
    """Every test here runs pytest."""


@pytest.fixture(
    params=[
        pytest.param(("-p", "no:xdist"), id="without xdist"),
        pytest.param(("-n0",), id="no worker"),
        pytest.param(("-n2",), id="two workers"),
    ]
)
def xdist(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The arguments with which pytest runs without xdist, with xdist but no workers, and with two."""
    return request.param


@pytest.fixture
def server(
    running_server: ServerProcess,
    opensandbox_settings: Settings,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> Server:
    """A server that the inner run finds by environment variables; it has no sandbox of the project yet."""
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", running_server.url)
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", running_server.api_key)
    if opensandbox_settings.server_proxy:
        monkeypatch.setenv("OPEN_SANDBOX_USE_SERVER_PROXY", "yes")
    monkeypatch.setenv("OPENSANDBOX_IMAGE", opensandbox_settings.image)
    image, project = opensandbox_settings.image, label_value(pytester.path.name)
    found = Server(running_server.url, running_server.api_key, image, project)
    assert found.sandboxes() == []
    return found


@pytest.fixture
def has_snapshots(server: Server) -> bool:
    """Whether the server has snapshots."""
    return server.snapshots() is not None
