"""What acceptance tests share: pytest in a subprocess with this plugin, and a server that outlives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

import pytest

from pytest_opensandbox import Client
from pytest_opensandbox.lifecycle import TAG_RUN
from pytest_opensandbox.managed import ManagedServer, start_embedded
from pytest_opensandbox.options import OPTIONS


@dataclass(frozen=True)
class Server:
    """A server that is not pytest's own, so that a test can look at it when pytest is gone."""

    url: str
    api_key: str

    def client(self) -> Client:
        return Client(self.url, self.api_key)

    def sandboxes(self) -> list[str]:
        """Return the ids of what some run has on it."""
        with self.client() as client:
            return [box.id for box in client.list_sandboxes() if TAG_RUN in box.metadata]


@pytest.fixture(autouse=True)
def clean_surroundings(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the outer run's settings; load this plugin and xdist and no other, for others take a second to import."""
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(_chosen_plugins()))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("OPEN_SANDBOX_API_KEY", "OPEN_SANDBOX_PROTOCOL", *(option.env for option in OPTIONS)):
        monkeypatch.delenv(name, raising=False)


def _chosen_plugins() -> list[str]:
    names = {point.name for point in entry_points(group="pytest11")}
    mine = [] if "opensandbox" in names else ["-p pytest_opensandbox.plugin"]
    return mine + [f"-p no:{name}" for name in sorted(names) if not name.startswith(("opensandbox", "xdist"))]


@pytest.fixture(scope="session")
def running_server() -> Iterator[ManagedServer]:
    with start_embedded() as server:
        yield server


@pytest.fixture
def server(running_server: ManagedServer, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that the environment names to the inner run; it holds no sandbox of any run when a test starts."""
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", running_server.url)
    monkeypatch.setenv("OPEN_SANDBOX_API_KEY", running_server.api_key)
    monkeypatch.setenv("OPENSANDBOX_IMAGE", "host")
    found = Server(running_server.url, running_server.api_key)
    assert found.sandboxes() == []
    return found
