"""The options of a new sandbox, and the rules they are checked by before they are sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_opensandbox.errors import ConfigError

DEFAULT_ENTRYPOINT = ("tail", "-f", "/dev/null")
DEFAULT_RESOURCES: Mapping[str, str] = {"cpu": "500m", "memory": "512Mi"}
POOL_EXTENSION = "poolRef"
"""Names the pool of sandboxes made ahead, on Kubernetes, that one is taken from."""
MIN_TIMEOUT_SECONDS = 60
MAX_TIMEOUT_SECONDS = 86_400


_LABEL_LENGTH = 63
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DNS_PREFIX = re.compile(r"(?=.{1,253}/)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/")
_RESERVED_PREFIX = "opensandbox.io/"
_CPU = re.compile(r"\d+m|\d+(\.\d+)?")
_RESOURCES = ("cpu", "memory", "gpu", "ephemeral-storage")
_MEMORY = re.compile(r"\d+([kmgtKMGT]i?[bB]?)?")


@dataclass(frozen=True)
class EgressRule:
    """One permission or refusal of outgoing traffic."""

    action: str
    """``allow`` or ``deny``."""
    target: str
    """A host name, or ``*.`` and a domain."""

    def __post_init__(self) -> None:
        if self.action not in ("allow", "deny"):
            raise ConfigError("network.egress.action", "be 'allow' or 'deny'", self.action)
        if not isinstance(self.target, str) or not self.target.strip():
            raise ConfigError("network.egress.target", "be a host name or *.domain", self.target)


@dataclass(frozen=True)
class NetworkPolicy:
    """The hosts that a sandbox may reach; without a policy it may reach all."""

    default_action: str = "deny"
    """``allow`` or ``deny``, for every target that no rule names."""
    egress: tuple[EgressRule, ...] = ()
    """Rules, most specific first."""

    def __post_init__(self) -> None:
        if self.default_action not in ("allow", "deny"):
            raise ConfigError("network.default_action", "be 'allow' or 'deny'", self.default_action)

    @classmethod
    def only(cls, *targets: str) -> NetworkPolicy:
        """Return a policy that denies everything but these host names.

        Raises:
            ConfigError: a target is not a host name.
        """
        return cls("deny", tuple(EgressRule("allow", target) for target in targets))

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object; both keys always, because the server reads a missing one in its own way."""
        rules = [{"action": rule.action, "target": rule.target} for rule in self.egress]
        return {"defaultAction": self.default_action, "egress": rules}


@dataclass(frozen=True, kw_only=True)
class SandboxOpts:
    """A request for one sandbox.

    Raises:
        ConfigError: a value breaks a rule of the server; names the field and the rule.

    Source: specs/sandbox-lifecycle.yml, CreateSandboxRequest.
    """

    image: str | None = None
    """Image reference such as ``python:3.12``; exactly one of image and snapshot_id, unless a pool is named."""
    snapshot_id: str | None = None
    """Id of a snapshot to restore."""
    entrypoint: Sequence[str] = DEFAULT_ENTRYPOINT
    """Argument list, at least one; the sandbox ends when this process does."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of everything that runs in the sandbox."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Labels to find the sandbox by; keys and values follow Kubernetes' label rules."""
    timeout: int | None = 600
    """Seconds that the sandbox lives unless renewed, 60 … 86,400; None lives until deleted."""
    resource_limits: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_RESOURCES))
    """``cpu`` as cores or ``500m``, ``memory`` as bytes or ``512Mi``, ``gpu`` as a count."""
    network_policy: NetworkPolicy | None = None
    """The hosts that it may reach; None for all."""
    secure_access: bool = False
    """Whether a gateway admits only requests with the token of the sandbox's endpoints; on Kubernetes."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Keys of one runtime or another, such as ``poolRef``."""

    def __post_init__(self) -> None:
        _check_source(self)
        _check_timeout(self.timeout)
        _check_entrypoint(self.entrypoint)
        check_env(self.env)
        check_resources(self.resource_limits)
        for key, value in _pairs("metadata", self.metadata):
            check_label(key, value)
        _pairs("extensions", self.extensions)

    @property
    def source(self) -> str:
        """What the sandbox is made from, in a word: an image, the id of a snapshot, or a pool; "" for none of them."""
        pool = self.extensions.get(POOL_EXTENSION)
        return self.image or self.snapshot_id or (f"pool {pool}" if pool else "")

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object of POST /sandboxes."""
        body: dict[str, Any] = {
            "entrypoint": list(self.entrypoint),
            "resourceLimits": dict(self.resource_limits),
            "timeout": self.timeout,
            "env": dict(self.env),
            "metadata": dict(self.metadata),
        }
        if self.image is not None:
            body["image"] = {"uri": self.image}
        if self.snapshot_id is not None:
            body["snapshotId"] = self.snapshot_id
        if self.network_policy is not None:
            body["networkPolicy"] = self.network_policy.to_wire()
        if self.secure_access:
            body["secureAccess"] = True
        if self.extensions:
            body["extensions"] = dict(self.extensions)
        return body


def label_value(text: str) -> str:
    """Return a legal label value that is unique for ``text``, such as a test's node id.

    Legal text is returned as it is. Otherwise illegal characters become ``-``, the readable end is kept,
    and ten hexadecimal digits of the text's SHA-256 make it unique.

    Returns:
        1 … 63 characters of ``[A-Za-z0-9_.-]``, alphanumeric at both ends.

    Source: opensandbox_server validators, Kubernetes label rules.
    """
    if _LABEL.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", text)[-(_LABEL_LENGTH - len(digest) - 1) :].strip("-_.")
    return f"{readable}-{digest}" if readable else digest


def check_label(key: str, value: str) -> None:
    """Refuse a metadata pair that breaks the server's rules.

    Raises:
        ConfigError: the key or the value breaks the label rules, or the key is reserved.
    """
    if key.startswith(_RESERVED_PREFIX):
        raise ConfigError(f"metadata key {key!r}", f"not begin with {_RESERVED_PREFIX}, which is the server's own", key)
    prefix = _DNS_PREFIX.match(key)
    if not _LABEL.fullmatch(key[prefix.end() :] if prefix else key):
        rule = "be 1-63 characters of letters, digits, '-', '_', '.', alphanumeric at both ends"
        raise ConfigError(f"metadata key {key!r}", rule, key)
    if value and not _LABEL.fullmatch(value):
        rule = "be up to 63 characters of letters, digits, '-', '_', '.', alphanumeric at both ends (see label_value)"
        raise ConfigError(f"metadata[{key!r}]", rule, value)


def check_env(env: Mapping[str, str]) -> None:
    """Refuse environment variables that no process can have.

    Raises:
        ConfigError: a name is empty or holds ``=`` or NUL, a value holds NUL, or one of them is no text for UTF-8.
    """
    for name, value in _pairs("env", env):
        if not name or "=" in name or "\0" in name:
            raise ConfigError("env", "have names that are not empty and hold no '=' or NUL", name)
        if "\0" in value or not _is_utf8(name + value):
            raise ConfigError(f"env[{name!r}]", "be text that UTF-8 can write, without NUL", value)


def check_resources(limits: Mapping[str, str], *, field: str = "resource_limits") -> None:
    """Refuse resource limits that no server understands.

    Args:
        limits: values by the name of the resource.
        field: what the caller calls them, for the message.

    Raises:
        ConfigError: a name that no server knows, or a value in another form than that of its name.
    """
    for name, value in _pairs(field, limits):
        if name not in _RESOURCES and "/" not in name:
            rule = f"have a name out of {', '.join(_RESOURCES)}, or one with a domain as vendor.example.org/thing"
            raise ConfigError(f"{field}[{name!r}]", rule, name)
        if name == "cpu" and not _CPU.fullmatch(value):
            rule = "be cores such as '2' or '0.5', or millicores such as '500m'"
            raise ConfigError(f"{field}['cpu']", rule, value)
        if name == "memory" and not _MEMORY.fullmatch(value):
            rule = "be whole bytes with an optional suffix such as '512Mi' or '2g'"
            raise ConfigError(f"{field}['memory']", rule, value)


def check_reference(value: object, *, field: str) -> None:
    """Refuse a value that cannot name an image or a snapshot.

    Raises:
        ConfigError: no text, an empty one, or one with white space.
    """
    if not isinstance(value, str) or not value or re.search(r"\s", value):
        raise ConfigError(field, "be a reference without white space", value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_source(opts: SandboxOpts) -> None:
    sources = [value for value in (opts.image, opts.snapshot_id) if value is not None]
    if len(sources) > 1 or (not sources and POOL_EXTENSION not in opts.extensions):
        raise ConfigError("image", "be given, or snapshot_id, but not both", opts.image)
    for name, value in (("image", opts.image), ("snapshot_id", opts.snapshot_id)):
        if value is not None:
            check_reference(value, field=name)


def _check_timeout(timeout: int | None) -> None:
    whole = isinstance(timeout, int) and not isinstance(timeout, bool)
    if timeout is not None and not (whole and MIN_TIMEOUT_SECONDS <= timeout <= MAX_TIMEOUT_SECONDS):
        rule = f"be whole seconds, {MIN_TIMEOUT_SECONDS} to {MAX_TIMEOUT_SECONDS}, or None for no end"
        raise ConfigError("timeout", rule, timeout)


def _check_entrypoint(entrypoint: Sequence[str]) -> None:
    words = [] if isinstance(entrypoint, str) else list(entrypoint)
    if not words or not words[0] or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ConfigError("entrypoint", "be a list of at least one word", entrypoint)


def _pairs(name: str, mapping: Mapping[str, str]) -> list[tuple[str, str]]:
    if not isinstance(mapping, Mapping):
        raise ConfigError(name, "be a mapping of text to text", mapping)
    for key, value in mapping.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigError(f"{name}[{key!r}]", f"be text, such as {str(value)!r}", value)
    return list(mapping.items())
