"""The handlers of the lifecycle API for snapshots."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_opensandbox.embedded.api.request import Page, Request
from pytest_opensandbox.embedded.api.routing import Response, Route, json_response
from pytest_opensandbox.embedded.api.validation import reject, text
from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry


def snapshot_routes(registry: SandboxRegistry) -> Iterable[Route]:
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
    """The handlers; each gets the request and the parameters of its path."""

    def __init__(self, registry: SandboxRegistry) -> None:
        self._registry = registry
        self._snapshots = registry.snapshots

    def create(self, request: Request, sandbox_id: str) -> Response:
        name = _name(request.optional_body().get("name"))
        described = self._snapshots.create(self._registry.get(sandbox_id), name)
        return json_response(described, 202, Location=f"/v1/snapshots/{described['id']}")

    def list(self, request: Request) -> Response:
        page = Page(request)
        found = self._snapshots.find(
            sandbox_id=request.last("sandboxId"), name=request.last("name"), states=request.texts("state")
        )
        return json_response(page.of(found))

    def get(self, _: Request, snapshot_id: str) -> Response:
        return json_response(self._snapshots.get(snapshot_id).describe())

    def delete(self, _: Request, snapshot_id: str) -> Response:
        self._snapshots.delete(snapshot_id)
        return Response(204)


def _name(value: object) -> str | None:
    """Return a snapshot's name, None without one."""
    if value is None:
        return None
    name = text(value, ["body", "name"])
    if not name:
        message = "String should have at least 1 character"
        reject("string_too_short", ["body", "name"], message, value, min_length=1)
    return name
