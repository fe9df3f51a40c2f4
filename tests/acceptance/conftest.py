"""What acceptance tests share: pytest in a subprocess with this plugin, and a server that outlives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_opensandbox import Client
from pytest_opensandbox.client.sandbox_opts import label_value
from pytest_opensandbox.plugin.run import RUN
from pytest_opensandbox.sandbox.tracking import TAG_PROJECT
from pytest_opensandbox.servers.server_process import ManagedServer
from pytest_opensandbox.settings.options import EMBEDDED
from pytest_opensandbox.settings.settings import Settings


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where sandboxes are not embedded, leave out what would be the same test once more: it names its own server."""
    if config.stash[RUN].settings.url == EMBEDDED:
        return
    here = Path(__file__).parent
    same = [item for item in items if here in item.path.parents and "server" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=same)
    items[:] = [item for item in items if item not in same]


@dataclass(frozen=True)
class Server:
    """A server that is not pytest's own, so that a test can look at it when pytest is gone."""

    url: str
    api_key: str
    image: str
    """What a sandbox is made of where a test asks for nothing else."""
    project: str
    """The project under test; servers on the same Docker engine see each other's sandboxes."""

    def client(self) -> Client:
        return Client(self.url, self.api_key)

    def sandboxes(self) -> list[str]:
        """Return the ids of what runs of the project have on it."""
        with self.client() as client:
            return [box.id for box in client.list_sandboxes({TAG_PROJECT: self.project})]


@pytest.fixture(autouse=True)
def _surroundings(clean_surroundings: None) -> None:
    """Every test here runs pytest."""


@pytest.fixture
def server(
    running_server: ManagedServer,
    opensandbox_settings: Settings,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> Server:
    """A server that the environment names to the inner run; it holds no sandbox of the project when a test starts."""
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", running_server.url)
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", running_server.api_key)
    if opensandbox_settings.server_proxy:
        monkeypatch.setenv("OPEN_SANDBOX_USE_SERVER_PROXY", "yes")
    monkeypatch.setenv("OPENSANDBOX_IMAGE", opensandbox_settings.image)
    image, project = opensandbox_settings.image, label_value(pytester.path.name)
    found = Server(running_server.url, running_server.api_key, image, project)
    assert found.sandboxes() == []
    return found
