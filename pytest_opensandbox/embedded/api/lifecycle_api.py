"""The handlers of the lifecycle API, one for each route."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NoReturn

from pytest_opensandbox.embedded.api import diagnostics
from pytest_opensandbox.embedded.api.create_request import parse_create
from pytest_opensandbox.embedded.api.request import MAX_NUMBER, Page, Request
from pytest_opensandbox.embedded.api.routing import Response, Route, json_response
from pytest_opensandbox.embedded.api.snapshot_api import snapshot_routes
from pytest_opensandbox.embedded.api.validation import check_labels, instant, integer, parse_filter, reject
from pytest_opensandbox.embedded.errors import refuse
from pytest_opensandbox.embedded.runtime.agent_connections import TOKEN_HEADER
from pytest_opensandbox.embedded.runtime.log import format_time
from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

_MAX_PORT = 65535
_MAX_TAIL = 10_000


def routes(registry: SandboxRegistry, version: str) -> Iterable[Route]:
    """Return method, path and handler of every route, without the ``/v1`` in front."""
    api = _Api(registry, version)
    one = "/sandboxes/<sandbox_id>"
    yield from (
        ("GET", "/health", api.health),
        ("GET", "/version", api.version),
        ("POST", "/sandboxes", api.create),
        ("GET", "/sandboxes", api.list),
        ("GET", one, api.get),
        ("DELETE", one, api.delete),
        ("PATCH", f"{one}/metadata", api.patch_metadata),
        ("POST", f"{one}/pause", api.pause),
        ("POST", f"{one}/resume", api.resume),
        ("POST", f"{one}/renew-expiration", api.renew),
        ("GET", f"{one}/endpoints/<port>", api.endpoint),
        ("GET", f"{one}/diagnostics/logs", partial(api.diagnose, kind="logs")),
        ("GET", f"{one}/diagnostics/events", partial(api.diagnose, kind="events")),
        ("GET", f"{one}/diagnostics/inspect", api.inspect),
        ("GET", f"{one}/diagnostics/summary", api.summarize),
    )
    yield from snapshot_routes(registry)
    yield from _routes_on_kubernetes()


class _Api:
    """The handlers; each gets the request and the parameters of its path."""

    def __init__(self, registry: SandboxRegistry, version: str) -> None:
        self._registry = registry
        self._version = version

    def health(self, _: Request) -> Response:
        return json_response({"status": "healthy"})

    def version(self, _: Request) -> Response:
        return json_response({"version": self._version})

    def create(self, request: Request) -> Response:
        create = parse_create(request.body(), self._registry.snapshots.check)
        return json_response(self._registry.create(create).describe_created(), 202)

    def list(self, request: Request) -> Response:
        page, metadata = Page(request), parse_filter(request.last("metadata") or "")
        return json_response(page.of(self._registry.find(states=request.texts("state"), metadata=metadata)))

    def get(self, _: Request, sandbox_id: str) -> Response:
        return json_response(self._registry.get(sandbox_id).describe())

    def delete(self, _: Request, sandbox_id: str) -> Response:
        self._registry.delete(sandbox_id)
        return Response(204)

    def patch_metadata(self, request: Request, sandbox_id: str) -> Response:
        record = self._registry.get(sandbox_id)
        patch = request.body()
        if reserved := next((key for key in patch if key.startswith("opensandbox.io/")), None):
            message = f"Metadata key '{reserved}' is reserved (opensandbox.io/ prefix)."
            refuse(400, "INVALID_METADATA_LABEL", message)
        for key, value in patch.items():
            if value is not None and not isinstance(value, str):
                reject("string_type", ["body", key], "Input should be a valid string", value)
        check_labels({key: value for key, value in patch.items() if value is not None})
        merged = {**record.metadata, **patch}
        record.metadata = {key: value for key, value in merged.items() if value is not None}
        return json_response(record.describe())

    def pause(self, _: Request, sandbox_id: str) -> Response:
        self._registry.pause(sandbox_id)
        return Response(202)

    def resume(self, _: Request, sandbox_id: str) -> Response:
        self._registry.resume(sandbox_id)
        return Response(202)

    def renew(self, request: Request, sandbox_id: str) -> Response:
        body = request.body()
        if "expiresAt" not in body and "expires_at" not in body:
            reject("missing", ["body", "expiresAt"], "Field required", body)
        expires_at = instant(body.get("expiresAt", body.get("expires_at")), "expiresAt")
        self._registry.renew(sandbox_id, expires_at)
        return json_response({"expiresAt": format_time(expires_at)})

    def endpoint(self, request: Request, sandbox_id: str, port: str) -> Response:
        number = integer(port, ["path", "port"], at_least=-MAX_NUMBER)
        through_server = request.flag("use_server_proxy")
        if request.last("expires") is not None:
            reason = (
                "use_server_proxy cannot be combined with expires" if through_server else "no gateway signs routes here"
            )
            refuse(400, "SANDBOX::API_NOT_SUPPORTED", f"{reason}: leave out expires.")
        if not 1 <= number <= _MAX_PORT:
            refuse(400, "DOCKER::INVALID_PORT", "Port must be between 1 and 65535.")
        record = self._registry.get(sandbox_id)
        # In the path and in a header, as not every client sends an endpoint's headers, nor the key to the proxy.
        secret = record.process.token
        if through_server:
            address = f"{request.host}/{secret}{request.mount}/sandboxes/{record.id}/proxy/{number}"
        else:
            address = f"127.0.0.1:{record.relay.port}/{secret}/proxy/{number}"
        return json_response({"endpoint": address, "headers": {TOKEN_HEADER: secret}})

    def diagnose(self, request: Request, sandbox_id: str, *, kind: str) -> Response:
        record = self._registry.get(sandbox_id)
        if (scope := request.last("scope")) is not None:
            return json_response(diagnostics.describe_inline(record, kind, scope))
        if kind == "events":
            return _text_response(diagnostics.event_text(record), Deprecation="true")
        tail = request.number("tail", 100, at_most=_MAX_TAIL)
        text = diagnostics.log_text(record, tail=tail, since=request.last("since"))
        return _text_response(text, Deprecation="true")

    def inspect(self, _: Request, sandbox_id: str) -> Response:
        return _text_response(diagnostics.inspect_text(self._registry.get(sandbox_id)))

    def summarize(self, request: Request, sandbox_id: str) -> Response:
        record = self._registry.get(sandbox_id)
        return _text_response(diagnostics.summary_text(record, tail=request.number("tail", 50, at_most=_MAX_TAIL)))


def _routes_on_kubernetes() -> Iterable[Route]:
    """Yield the routes of features that only Kubernetes has."""
    for path, handler in (("/pools", _refuse_pools), ("/templates", _refuse_templates)):
        for method in ("GET", "POST"):
            yield method, path, handler
        for method in ("GET", "DELETE"):
            yield method, f"{path}/<name>", handler
    yield "PUT", "/pools/<name>", _refuse_pools


def _refuse_pools(_: Request, name: str = "") -> NoReturn:
    refuse(501, "KUBERNETES::POOL_NOT_SUPPORTED", "Pools of sandboxes need an OpenSandbox server on Kubernetes.")


def _refuse_templates(_: Request, name: str = "") -> NoReturn:
    refuse(501, "FSB::API_NOT_SUPPORTED", "Templates need an OpenSandbox server on Kubernetes.")


def _text_response(text: str, **headers: str) -> Response:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Response(200, text.encode(), (kind, *headers.items()))
