"""The handlers of the lifecycle API for snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import bottle

from pytest_opensandbox.embedded.api import parameters
from pytest_opensandbox.embedded.api.validation import reject, text
from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

Handler = Callable[..., Any]


def snapshot_routes(registry: SandboxRegistry) -> Iterable[tuple[str, str, Handler]]:
    """Return method, path and handler of every route, without the ``/v1`` in front."""
    api = _Api(registry)
    one = "/snapshots/<snapshot_id>"
    yield from (
        ("POST", "/sandboxes/<sandbox_id>/snapshots", api.create),
        ("GET", "/snapshots", api.list),
        ("GET", one, api.get),
        ("DELETE", one, api.delete),
    )


class _Api:
    """The handlers; each returns a value for JSON or a complete response."""

    def __init__(self, registry: SandboxRegistry) -> None:
        self._registry = registry
        self._snapshots = registry.snapshots

    def create(self, sandbox_id: str) -> dict[str, object]:
        name = _name(parameters.optional_body().get("name"))
        described = self._snapshots.create(self._registry.get(sandbox_id), name)
        bottle.response.status = 202
        bottle.response.set_header("Location", f"/v1/snapshots/{described['id']}")
        return described

    def list(self) -> Mapping[str, object]:
        page = parameters.Page()
        found = self._snapshots.find(
            sandbox_id=parameters.last("sandboxId"), name=parameters.last("name"), states=parameters.texts("state")
        )
        return page.of(found)

    def get(self, snapshot_id: str) -> dict[str, object]:
        return self._snapshots.get(snapshot_id).describe()

    def delete(self, snapshot_id: str) -> Any:
        self._snapshots.delete(snapshot_id)
        return bottle.HTTPResponse(status=204)


def _name(value: object) -> str | None:
    """Return a snapshot's name, None without one."""
    if value is None:
        return None
    name = text(value, ["body", "name"])
    if not name:
        message = "String should have at least 1 character"
        reject("string_too_short", ["body", "name"], message, value, min_length=1)
    return name
