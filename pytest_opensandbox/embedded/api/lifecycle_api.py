"""The handlers of the lifecycle API, one for each route."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import bottle

from pytest_opensandbox.embedded.api import diagnostics, parameters
from pytest_opensandbox.embedded.api.create_request import parse_create
from pytest_opensandbox.embedded.api.snapshot_api import snapshot_routes
from pytest_opensandbox.embedded.api.validation import check_labels, instant, integer, parse_filter, reject
from pytest_opensandbox.embedded.errors import refuse
from pytest_opensandbox.embedded.runtime.agent_connections import TOKEN_HEADER
from pytest_opensandbox.embedded.runtime.log import format_time
from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

_MAX_PORT = 65535
_MAX_TAIL = 10_000
_PLAIN = {"Content-Type": "text/plain; charset=utf-8"}
_DEPRECATED = {**_PLAIN, "Deprecation": "true"}

Handler = Callable[..., Any]


def routes(registry: SandboxRegistry, version: str) -> Iterable[tuple[str, str, Handler]]:
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
        ("GET", f"{one}/diagnostics/<kind:re:logs|events>", api.diagnose),
        ("GET", f"{one}/diagnostics/<kind:re:inspect|summary>", api.describe_as_text),
    )
    yield from snapshot_routes(registry)
    yield from _routes_on_kubernetes()


class _Api:
    """The handlers; each returns a value for JSON or a complete response."""

    def __init__(self, registry: SandboxRegistry, version: str) -> None:
        self._registry = registry
        self._version = version

    def health(self) -> dict[str, str]:
        return {"status": "healthy"}

    def version(self) -> dict[str, str]:
        return {"version": self._version}

    def create(self) -> dict[str, object]:
        bottle.response.status = 202
        return self._registry.create(parse_create(parameters.body(), self._registry.snapshots.check)).describe_created()

    def list(self) -> Mapping[str, object]:
        page, metadata = parameters.Page(), parse_filter(parameters.last("metadata") or "")
        return page.of(self._registry.find(states=parameters.texts("state"), metadata=metadata))

    def get(self, sandbox_id: str) -> dict[str, object]:
        return self._registry.get(sandbox_id).describe()

    def delete(self, sandbox_id: str) -> Any:
        self._registry.delete(sandbox_id)
        return bottle.HTTPResponse(status=204)

    def patch_metadata(self, sandbox_id: str) -> dict[str, object]:
        record = self._registry.get(sandbox_id)
        patch = parameters.body()
        if reserved := next((key for key in patch if key.startswith("opensandbox.io/")), None):
            message = f"Metadata key '{reserved}' is reserved (opensandbox.io/ prefix)."
            refuse(400, "INVALID_METADATA_LABEL", message)
        for key, value in patch.items():
            if value is not None and not isinstance(value, str):
                reject("string_type", ["body", key], "Input should be a valid string", value)
        check_labels({key: value for key, value in patch.items() if value is not None})
        merged = {**record.metadata, **patch}
        record.metadata = {key: value for key, value in merged.items() if value is not None}
        return record.describe()

    def pause(self, sandbox_id: str) -> Any:
        self._registry.pause(sandbox_id)
        return bottle.HTTPResponse(status=202)

    def resume(self, sandbox_id: str) -> Any:
        self._registry.resume(sandbox_id)
        return bottle.HTTPResponse(status=202)

    def renew(self, sandbox_id: str) -> dict[str, str]:
        body = parameters.body()
        if "expiresAt" not in body and "expires_at" not in body:
            reject("missing", ["body", "expiresAt"], "Field required", body)
        expires_at = instant(body.get("expiresAt", body.get("expires_at")), "expiresAt")
        self._registry.renew(sandbox_id, expires_at)
        return {"expiresAt": format_time(expires_at)}

    def endpoint(self, sandbox_id: str, port: str) -> dict[str, object]:
        number = integer(port, ["path", "port"], at_least=-parameters.MAX_NUMBER)
        through_server = parameters.flag("use_server_proxy")
        if parameters.last("expires") is not None:
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
            server, mount = bottle.request.get_header("Host"), bottle.request.environ["SCRIPT_NAME"].rstrip("/")
            address = f"{server}/{secret}{mount}/sandboxes/{record.id}/proxy/{number}"
        else:
            address = f"127.0.0.1:{record.relay.port}/{secret}/proxy/{number}"
        return {"endpoint": address, "headers": {TOKEN_HEADER: secret}}

    def diagnose(self, sandbox_id: str, kind: str) -> Any:
        record = self._registry.get(sandbox_id)
        if (scope := parameters.last("scope")) is not None:
            return diagnostics.describe_inline(record, kind, scope)
        if kind == "events":
            return _answer_text(diagnostics.event_text(record), _DEPRECATED)
        tail = parameters.number("tail", 100, at_most=_MAX_TAIL)
        return _answer_text(diagnostics.log_text(record, tail=tail, since=parameters.last("since")), _DEPRECATED)

    def describe_as_text(self, sandbox_id: str, kind: str) -> Any:
        record = self._registry.get(sandbox_id)
        if kind == "inspect":
            return _answer_text(diagnostics.inspect_text(record), _PLAIN)
        return _answer_text(
            diagnostics.summary_text(record, tail=parameters.number("tail", 50, at_most=_MAX_TAIL)), _PLAIN
        )


def _routes_on_kubernetes() -> Iterable[tuple[str, str, Handler]]:
    """Yield the routes of features that only Kubernetes has."""
    for path, handler in (("/pools", _refuse_pools), ("/templates", _refuse_templates)):
        for method in ("GET", "POST"):
            yield method, path, handler
        for method in ("GET", "DELETE"):
            yield method, f"{path}/<name>", handler
    yield "PUT", "/pools/<name>", _refuse_pools


def _refuse_pools(name: str = "") -> NoReturn:
    refuse(501, "KUBERNETES::POOL_NOT_SUPPORTED", "Pools of sandboxes need an OpenSandbox server on Kubernetes.")


def _refuse_templates(name: str = "") -> NoReturn:
    refuse(501, "FSB::API_NOT_SUPPORTED", "Templates need an OpenSandbox server on Kubernetes.")


def _answer_text(text: str, headers: Mapping[str, str]) -> Any:
    return bottle.HTTPResponse(text, 200, headers=headers)
