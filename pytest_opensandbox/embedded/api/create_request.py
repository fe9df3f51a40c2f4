"""Parsing of the body of a create, in the real server's order, with refusals of what this server cannot do."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pytest_opensandbox.embedded.api.validation import (
    boolean,
    check_labels,
    check_resources,
    integer,
    mapping,
    reject,
    reject_body,
    text,
    texts,
    typed,
)
from pytest_opensandbox.embedded.errors import refuse
from pytest_opensandbox.embedded.state.sandboxes import HOST_IMAGE, CreateRequest

_MIN_TIMEOUT_SECONDS = 60
_KUBERNETES = "use the URL of an OpenSandbox server on Kubernetes"
_DOCKER = "use --opensandbox-url docker, or the URL of an OpenSandbox server"
# Python names are accepted as well: the real server's models allow both.
_ALIASES = {
    "snapshot_id": "snapshotId",
    "resource_limits": "resourceLimits",
    "network_policy": "networkPolicy",
    "credential_proxy": "credentialProxy",
    "secure_access": "secureAccess",
    "template_id": "templateId",
}
_UNSUPPORTED = {
    "volumes": "volumes are not mounted here",
    "secureAccess": "secureAccess needs an ingress gateway, this server has none",
    "lifecycle": "lifecycle hooks are not run here",
    "templateId": "there are no templates here",
    "credentialProxy": "there is no credential proxy here",
}
_LIFECYCLE_VARIABLE = "OPENSANDBOX_LIFECYCLE"
_RENEW_EXTENSION = "access.renew.extend.seconds"
_RENEW_SECONDS = (300, 86_400)
_ON_KUBERNETES = frozenset({"lifecycle", "secureAccess", "templateId"})
_RESTORED_ENTRYPOINT = ("tail", "-f", "/dev/null")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def parse_create(body: Mapping[str, Any], check_snapshot: Callable[[str], object]) -> CreateRequest:
    """Return the create that a body asks for.

    Args:
        body: as it came.
        check_snapshot: is given a snapshot's id and refuses what cannot be restored.

    Raises:
        RefusedError: the body is malformed, or asks for what this server does not have.
    """
    fields = {_ALIASES.get(name, name): value for name, value in body.items()}
    request = CreateRequest(
        entrypoint=tuple(_entrypoint(fields)),
        environment=mapping(fields.get("env"), "env", drop_null=True),
        metadata=mapping(fields.get("metadata"), "metadata"),
        extensions=mapping(fields.get("extensions"), "extensions"),
        timeout_seconds=_timeout(fields.get("timeout")),
        snapshot_id=_snapshot(fields.get("snapshotId")),
        platform=_platform(fields.get("platform")),
    )
    image = _image(fields.get("image"))
    limits = mapping(fields.get("resourceLimits"), "resourceLimits")
    wanted = _wanted(fields)
    _check_together(body, fields, wanted)
    if not request.extensions.get("poolRef", "").strip():
        _check_source(body, fields, image)
    _check_renewal(request.extensions)
    if request.snapshot_id and not image:
        check_snapshot(request.snapshot_id)
        request = replace(request, entrypoint=request.entrypoint or _RESTORED_ENTRYPOINT)
    check_labels(request.metadata)
    _check_supported(fields, request, image, wanted)
    check_resources(limits)
    if "gpu" in limits:
        refuse(400, "SANDBOX::API_NOT_SUPPORTED", f"Devices are not handed to a sandbox here: {_DOCKER}.")
    _check_texts(request)
    return request


def _entrypoint(fields: Mapping[str, Any]) -> list[str]:
    value = fields.get("entrypoint")
    return [] if value is None else texts(value, "entrypoint")


def _timeout(value: object) -> int | None:
    return None if value is None else integer(value, ["body", "timeout"], at_least=_MIN_TIMEOUT_SECONDS)


def _image(value: object) -> str:
    """Return the image's name, "" where none is given."""
    if value is None:
        return ""
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        reject("model_attributes_type", ["body", "image"], message, value)
    if "uri" not in value:
        reject("missing", ["body", "image", "uri"], "Field required", value)
    return text(value["uri"], ["body", "image", "uri"]).strip()


def _snapshot(value: object) -> str:
    return "" if value is None else text(value, ["body", "snapshotId"]).strip()


def _platform(value: object) -> Mapping[str, str] | None:
    """Return a platform in lower case, without white space around it."""
    if value is None:
        return None
    given = typed(value, dict, "platform")
    for part in ("os", "arch"):
        if part not in given:
            reject("missing", ["body", "platform", part], "Field required", value)
    return {part: text(given[part], ["body", "platform", part]).strip().lower() for part in ("os", "arch")}


def _wanted(fields: Mapping[str, Any]) -> set[str]:
    """Return the requested features that this server does not have."""
    given = {name: value for name, value in fields.items() if value is not None}
    proxy = typed(given.get("credentialProxy", {}), dict, "credentialProxy")
    typed(given.get("networkPolicy", {}), dict, "networkPolicy")
    asked = {
        "volumes": bool(typed(given.get("volumes", []), list, "volumes")),
        "secureAccess": boolean(fields.get("secureAccess", False), ["body", "secureAccess"]),
        "lifecycle": "lifecycle" in given,
        "templateId": bool(text(given.get("templateId", ""), ["body", "templateId"]).strip()),
        "credentialProxy": boolean(proxy.get("enabled", False), ["body", "credentialProxy", "enabled"]),
    }
    typed(given.get("lifecycle", {}), dict, "lifecycle")
    return {field for field, is_asked in asked.items() if is_asked}


def _check_together(body: Mapping[str, Any], fields: Mapping[str, Any], wanted: set[str]) -> None:
    """Refuse contradictory fields, whatever the sandbox is created from."""
    if _LIFECYCLE_VARIABLE in (fields.get("env") or {}):
        message = f"Environment variable '{_LIFECYCLE_VARIABLE}' is reserved. Use the lifecycle request field instead."
        reject_body(message, body)
    if "credentialProxy" in wanted and fields.get("networkPolicy") is None:
        reject_body("credentialProxy.enabled requires networkPolicy.", body)


def _check_renewal(extensions: Mapping[str, str]) -> None:
    """Refuse an invalid time in the extension that renews a sandbox on access."""
    given = extensions.get(_RENEW_EXTENSION)
    low, high = _RENEW_SECONDS
    if given is not None and not (re.fullmatch(r"\s*\+?[0-9]{1,9}\s*", given) and low <= int(given) <= high):
        message = f'Invalid extensions["{_RENEW_EXTENSION}"]: must be a whole number from {low} to {high}.'
        refuse(400, "SANDBOX::INVALID_PARAMETER", message)


def _check_source(body: Mapping[str, Any], fields: Mapping[str, Any], image: str) -> None:
    """Refuse a create without its source, entrypoint or resource limits."""
    if bool(image) == bool(_snapshot(fields.get("snapshotId"))):
        reject_body("Exactly one of image or snapshotId must be provided.", body)
    if image and not fields.get("entrypoint"):
        reject_body("Entrypoint is required when image is provided.", body)
    if fields.get("resourceLimits") is None:
        reject_body("resourceLimits is required when poolRef is not provided.", body)


def _check_supported(fields: Mapping[str, Any], request: CreateRequest, image: str, wanted: set[str]) -> None:
    """Refuse what this server does not support, and name the backend that does."""
    if pool := request.extensions.get("poolRef", "").strip():
        refuse(
            400,
            "SANDBOX::UNSUPPORTED_POOL_REF",
            f"There is no pool {pool!r} here: leave the pool out, or {_KUBERNETES}.",
        )
    for field, reason in _UNSUPPORTED.items():
        if field in wanted:
            where = _KUBERNETES if field in _ON_KUBERNETES else _DOCKER
            refuse(400, "SANDBOX::API_NOT_SUPPORTED", f"{reason[0].upper()}{reason[1:]}: {where}.")
    if image != HOST_IMAGE and not request.snapshot_id:
        refuse(
            400,
            "SANDBOX::INVALID_PARAMETER",
            f"The embedded server has no image {image!r}, only {HOST_IMAGE!r}, this machine's own system:"
            f" use --opensandbox-image {HOST_IMAGE}, or for images {_DOCKER}.",
        )
    own = {"os": "linux", "arch": _ARCHITECTURES.get(platform.machine(), platform.machine())}
    if request.platform not in (None, own):
        message = f"A sandbox here has this machine's platform, not {fields['platform']}: {_DOCKER}."
        refuse(400, "SANDBOX::INVALID_PARAMETER", message)
    if not _is_deny_all(fields.get("networkPolicy")):
        refuse(
            400,
            "SANDBOX::INVALID_PARAMETER",
            "The embedded server's sandboxes have no network at all, so networkPolicy can only be"
            f' {{"defaultAction": "deny", "egress": []}}: for rules {_DOCKER}.',
        )


def _is_deny_all(policy: object) -> bool:
    """Say whether a policy is absent or what a sandbox here has anyway."""
    if policy is None:
        return True
    if not isinstance(policy, dict):
        return False
    action = policy.get("defaultAction", policy.get("default_action"))
    return action in (None, "deny") and not policy.get("egress")


def _check_texts(request: CreateRequest) -> None:
    """Refuse variables and arguments that the system cannot pass to a process."""
    for name, value in request.environment.items():
        if not name or "=" in name or not _fits_a_process(name + value):
            message = f"Environment variable {name!r} is invalid: no '=' in a name, no NUL anywhere."
            refuse(400, "SANDBOX::INVALID_PARAMETER", message)
    for argument in request.entrypoint:
        if not _fits_a_process(argument):
            refuse(400, "SANDBOX::INVALID_PARAMETER", f"Argument {argument!r} of the entrypoint is invalid: no NUL.")


def _fits_a_process(value: str) -> bool:
    """Say whether a text can be an argument: JSON allows NUL and lone surrogates, a process does not."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
