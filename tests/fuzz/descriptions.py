"""OpenAPI descriptions of the embedded server and its agent, from which requests are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1, "maxLength": 40, "pattern": "^[^/\\s]+$"}
PATH: Schema = {"type": "string", "maxLength": 200}
NUMBER: Schema = {"type": "integer"}
YES_OR_NO: Schema = {"type": "boolean"}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT, "maxProperties": 5}
MODE: Schema = {"type": "object", "properties": {"mode": NUMBER, "owner": TEXT, "group": TEXT}, "maxProperties": 4}
LIMITS: Schema = {"type": "object", "properties": {"cpu": TEXT, "memory": TEXT}, "additionalProperties": TEXT}
RULE: Schema = {"type": "object", "properties": {"action": {"enum": ["allow", "deny"]}, "target": TEXT}}
POLICY: Schema = {
    "type": "object",
    "properties": {"defaultAction": {"enum": ["allow", "deny"]}, "egress": {"type": "array", "items": RULE}},
}
CREATE: Schema = {
    "type": "object",
    "required": ["resourceLimits"],
    "properties": {
        "image": {"type": "object", "properties": {"uri": {"enum": ["host", "no/such:image", ""]}}},
        "snapshotId": TEXT,
        "timeout": NUMBER,
        "resourceLimits": LIMITS,
        "env": LABELS,
        "metadata": LABELS,
        "entrypoint": {"type": "array", "items": TEXT, "maxItems": 3},
        "networkPolicy": POLICY,
        "extensions": LABELS,
        "volumes": {"type": "array", "items": {"type": "object"}, "maxItems": 2},
        "platform": {"type": "object"},
    },
}
COMMAND: Schema = {
    "type": "object",
    "required": ["command", "timeout"],
    "properties": {
        "command": TEXT,
        "cwd": PATH,
        # Milliseconds: a command that runs longer than a request may take would find nothing more.
        "timeout": {"type": "integer", "minimum": 1, "maximum": 300},
        "background": {"const": False},
        "envs": LABELS,
        "uid": NUMBER,
        "gid": NUMBER,
    },
}


def lifecycle() -> dict[str, Any]:
    """Return the description of the server's own operations."""
    one = "/v1/sandboxes/{sandbox_id}"
    pages = [query("page", NUMBER), query("pageSize", NUMBER)]
    scope = query("scope", TEXT)
    renewal = {"type": "object", "properties": {"expiresAt": TEXT}}
    named = {"type": "object", "properties": {"name": TEXT}}
    return description(
        {
            "/health": {"get": operation()},
            "/version": {"get": operation()},
            "/v1/sandboxes": {
                "get": operation(query("metadata", TEXT), query("state", TEXT), *pages),
                "post": operation(body=CREATE),
            },
            one: {"get": operation(segment("sandbox_id")), "delete": operation(segment("sandbox_id"))},
            f"{one}/metadata": {"patch": operation(segment("sandbox_id"), body=LABELS)},
            f"{one}/pause": {"post": operation(segment("sandbox_id"))},
            f"{one}/resume": {"post": operation(segment("sandbox_id"))},
            f"{one}/renew-expiration": {"post": operation(segment("sandbox_id"), body=renewal)},
            f"{one}/endpoints/{{port}}": {
                "get": operation(segment("sandbox_id"), segment("port", NUMBER), query("use_server_proxy", YES_OR_NO))
            },
            f"{one}/diagnostics/logs": {
                "get": operation(segment("sandbox_id"), scope, query("tail", TEXT), query("since", TEXT))
            },
            f"{one}/diagnostics/events": {"get": operation(segment("sandbox_id"), scope, query("limit", TEXT))},
            f"{one}/snapshots": {"post": operation(segment("sandbox_id"), body=named)},
            "/v1/snapshots": {
                "get": operation(query("sandboxId", TEXT), query("name", TEXT), query("state", TEXT), *pages)
            },
            "/v1/snapshots/{snapshot_id}": {
                "get": operation(segment("snapshot_id")),
                "delete": operation(segment("snapshot_id")),
            },
        }
    )


def agent() -> dict[str, Any]:
    """Return the description of the agent's operations."""
    moves = {"type": "array", "items": {"type": "object", "properties": {"src": PATH, "dest": PATH}}, "maxItems": 3}
    modes = {"type": "object", "additionalProperties": MODE, "maxProperties": 3}
    changes = {"type": "object", "additionalProperties": {"type": "object", "properties": {"old": TEXT, "new": TEXT}}}
    return description(
        {
            "/ping": {"get": operation()},
            "/command": {"post": operation(body=COMMAND), "delete": operation(query("id", TEXT))},
            "/command/status/{id}": {"get": operation(segment("id"))},
            "/command/{id}/logs": {"get": operation(segment("id"), query("cursor", NUMBER))},
            "/session": {"post": operation(body={"type": "object", "properties": {"cwd": PATH}})},
            "/session/{id}/run": {"post": operation(segment("id"), body=COMMAND)},
            "/session/{id}": {"delete": operation(segment("id"))},
            "/files/info": {"get": operation(query("path", PATH))},
            "/files/search": {"get": operation(query("path", PATH), query("pattern", TEXT))},
            "/files/download": {"get": operation(query("path", PATH), header("Range", TEXT))},
            "/files/mv": {"post": operation(body=moves)},
            "/files/permissions": {"post": operation(body=modes)},
            "/files/replace": {"post": operation(body=changes)},
            "/files": {"delete": operation(query("path", PATH))},
            "/directories/list": {"get": operation(query("path", PATH), query("depth", NUMBER))},
            "/directories": {"post": operation(body=modes), "delete": operation(query("path", PATH))},
            "/metrics": {"get": operation()},
        }
    )


def description(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole description."""
    return {"openapi": "3.0.3", "info": {"title": "embedded", "version": "1"}, "paths": paths}


def operation(*parameters: Schema, body: Schema | None = None) -> dict[str, Any]:
    """Return an operation that may be answered with any status; only the presence and the kind of an answer count."""
    found: dict[str, Any] = {"parameters": list(parameters), "responses": {"default": {"description": "an answer"}}}
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found


def query(name: str, schema: Schema) -> Schema:
    """Return a parameter of the query."""
    return {"name": name, "in": "query", "schema": schema}


def header(name: str, schema: Schema) -> Schema:
    """Return a header."""
    return {"name": name, "in": "header", "schema": schema}


def segment(name: str, schema: Schema = WORD) -> Schema:
    """Return a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema}
