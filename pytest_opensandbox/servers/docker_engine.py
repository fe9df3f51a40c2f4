"""The Docker engine: whether it answers, and the deletion of what one server or one run created."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_opensandbox.servers.docker_config import ServerFiles, engine_error

SANDBOX_LABEL = "opensandbox.io/id"
SIDECAR_LABEL = "opensandbox.io/egress-sidecar-for"
SNAPSHOT_REPOSITORY = "opensandbox-snapshots"

# The server logs each step on the engine. It forgets a helper whose start failed; the logged error names the container.
_CREATED = re.compile(r"sandbox=([0-9a-f-]{36}) \| action=create sandbox container ")
_HELPER = re.compile(r"sandbox=execd-cache \| .*/containers/([0-9a-f]{64})/")


class Engine:
    """The Docker engine that DOCKER_HOST names, else the one of the chosen context, else the one of this machine.

    Args:
        host: address of another engine; "" for this one.

    Raises:
        DockerStartError: no engine answers, or it refuses this user; the text says what to do.
    """

    def __init__(self, host: str = "") -> None:
        # Lazy: only this backend needs the extra.
        import docker
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env

        options = kwargs_from_env()
        options.setdefault("base_url", host or _context_host())
        self.host = str(options["base_url"])
        """Its address, such as ``unix:///var/run/docker.sock``."""
        try:
            self._api = docker.APIClient(**options, version="auto", timeout=60)
        except (DockerException, OSError) as error:
            raise engine_error(self.host, error) from None

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process with another HOME finds the engine and its registry logins."""
        from docker.utils.config import find_config_file

        found = find_config_file()
        return {"DOCKER_HOST": self.host, **({"DOCKER_CONFIG": str(Path(found).parent)} if found else {})}

    def clear(self, files: ServerFiles, *, label: str) -> None:
        """Delete what a server that has ended created: containers with their volumes, and snapshots.

        Args:
            files: the server's log and database, which list what it created.
            label: ``key=value`` of the run's sandboxes.
        """
        from docker.errors import DockerException

        created = _CreatedByServer(files)
        key, _, value = label.partition("=")
        containers: list[dict[str, Any]] = []
        with suppress(DockerException, OSError):
            containers = self._api.containers(all=True)
        found = [(container["Id"], container.get("Labels") or {}) for container in containers]
        created.sandboxes.update(labels.get(SANDBOX_LABEL, "") for _, labels in found if labels.get(key) == value)
        for container_id, labels in found:
            if created.has(container_id, labels):
                self.remove(container_id)
        for snapshot_id in created.snapshots:
            self.remove_snapshot(f"{SNAPSHOT_REPOSITORY}:{snapshot_id}")

    def left(self, label: str) -> tuple[list[str], list[str]]:
        """Return what carries a label: ids of containers, with their egress sidecars, and names of snapshots.

        Args:
            label: ``key=value`` of a run's sandboxes.

        Raises:
            DockerStartError: the engine does not answer.
        """
        from docker.errors import DockerException

        try:
            carrying = self._api.containers(all=True, filters={"label": label})
            sidecars = self._api.containers(all=True, filters={"label": SIDECAR_LABEL})
            images = self._api.images(SNAPSHOT_REPOSITORY, filters={"label": label})
        except (DockerException, OSError) as error:
            raise engine_error(self.host, error) from None
        sandboxes = {container["Labels"].get(SANDBOX_LABEL) for container in carrying}
        sidecars = [container for container in sidecars if container["Labels"][SIDECAR_LABEL] in sandboxes]
        names = [name for image in images for name in image.get("RepoTags") or ()]
        return [container["Id"] for container in (*carrying, *sidecars)], names

    def remove(self, container_id: str) -> None:
        """Delete a container with its volumes; after a failure it still exists, and nothing is raised."""
        from docker.errors import DockerException

        with suppress(DockerException, OSError):
            self._api.remove_container(container_id, force=True, v=True)

    def remove_snapshot(self, name: str) -> None:
        """Delete an image; after a failure it still exists, and nothing is raised."""
        from docker.errors import DockerException

        with suppress(DockerException, OSError):
            self._api.remove_image(name)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


class _CreatedByServer:
    """What a server created, by its log and its database."""

    def __init__(self, files: ServerFiles) -> None:
        self.sandboxes: set[str] = set()
        self.helpers: set[str] = set()
        self.snapshots = list(_snapshot_ids(files.store))
        with suppress(OSError), open(files.log, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self.sandboxes.update(_CREATED.findall(line))
                self.helpers.update(_HELPER.findall(line))

    def has(self, container_id: str, labels: dict[str, str]) -> bool:
        """Return whether the server created a container."""
        sandbox_id = labels.get(SANDBOX_LABEL) or labels.get(SIDECAR_LABEL)
        return sandbox_id in self.sandboxes or container_id in self.helpers


def _snapshot_ids(store: Path) -> Iterator[str]:
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
        try:
            yield from (str(row[0]) for row in connection.execute("SELECT id FROM snapshots"))
        finally:
            connection.close()


def _context_host() -> Any:
    """Return the address that ``docker context use`` has chosen, or the default one."""
    from docker.constants import DEFAULT_UNIX_SOCKET
    from docker.context import ContextAPI

    context = None
    with suppress(Exception):  # a broken configuration counts as none
        context = ContextAPI.get_current_context()
    return (context.Host if context else None) or DEFAULT_UNIX_SOCKET.replace("http+unix", "unix")
