"""What a server says of the way to a port of a sandbox: an address, and headers without which no gateway opens it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pytest_opensandbox.errors import ConfigError, ProtocolError
from pytest_opensandbox.text import MaskedText, hide, redacted
from pytest_opensandbox.transport.addresses import endpoint_url, own_proxy_url
from pytest_opensandbox.transport.framing import is_of_http

_MAX_PORT = 65_535
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Endpoint:
    """Where one port of a sandbox can be reached; its headers belong to every request that goes there."""

    url: str
    """Base URL with scheme, without a trailing slash, perhaps with a path, which may hold one of the secrets."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers to send on every request; may hold secrets, and show none of their values."""
    sandbox_id: str = ""
    """The sandbox, "" for an endpoint made by hand from a URL."""
    signature: str = ""
    """The part of a signed address that opens it, "" for one that is not signed; shown by nothing."""

    def __post_init__(self) -> None:
        hidden = {name: MaskedText(value) for name, value in self.headers.items()}
        object.__setattr__(self, "headers", hidden)
        object.__setattr__(self, "signature", MaskedText(self.signature))
        if self.signature or redacted(self.url, self.secrets) != self.url:
            object.__setattr__(self, "url", MaskedText(self.url))
            for secret in self.secrets:
                hide(secret)

    def __repr__(self) -> str:
        names = ", ".join(self.headers)
        return f"<Endpoint {redacted(self.url, self.secrets)}{f' with {names}' if names else ''}>"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of it nobody may see: its signature and its headers, but for one that only says which sandbox it is."""
        route = re.compile(rf"{re.escape(self.sandbox_id)}-\d+")
        return (*(value for value in self.headers.values() if not route.fullmatch(value)), self.signature)

    @property
    def host(self) -> str:
        """Host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port on that host."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)


def check_port(port: int) -> int:
    """Return a port if there can be one of that number.

    Raises:
        ConfigError: no whole number, or one that no TCP port has.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= _MAX_PORT:
        raise ConfigError("port", f"be a whole number, 1 to {_MAX_PORT}, such as 8000", port)
    return port


def read_endpoint(body: Any, *, sandbox_id: str, port: int, root: str, through_server: bool = False) -> Endpoint:
    """Read the server's answer to the question where a port can be reached.

    Args:
        body: the answer.
        sandbox_id: the sandbox that was asked for.
        port: the port that was asked for.
        root: the server's own address; a gateway speaks the same scheme unless the answer says another.
        through_server: whether the server's own proxy was asked for.

    Raises:
        ProtocolError: not an address, or headers that no request can carry; shows none of their values.

    Source: specs/sandbox-lifecycle.yml, Endpoint; opensandbox_server.services.helpers, which writes addresses.
    """
    address = body.get("endpoint") if isinstance(body, dict) else None
    headers = _headers(body.get("headers") if isinstance(body, dict) else None)
    if not isinstance(address, str):
        raise ProtocolError(f"an endpoint must be an object with an address, the server sent {_shape(body)}")
    url = endpoint_url(address, scheme=urlsplit(root).scheme)
    return Endpoint(
        url=own_proxy_url(url, root, opened_by=headers.values()) if through_server else url,
        headers=headers,
        sandbox_id=sandbox_id,
        signature=_signature([url, *headers.values()], sandbox_id, port),
    )


def _headers(value: Any) -> dict[str, MaskedText]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError(f"the headers of an endpoint must be an object, the server sent {_shape(value)}")
    headers = {name: MaskedText(text) for name, text in value.items()}
    for name, text in headers.items():
        if not (_NAME.fullmatch(name) and text.can_be_sent):
            raise ProtocolError(f"the headers of an endpoint must be such that HTTP can carry them, {name!r} is not")
        if is_of_http(name):
            raise ProtocolError(f"the headers of an endpoint must leave HTTP's own alone, {name!r} is one of them")
    return headers


def _signature(texts: list[str], sandbox_id: str, port: int) -> str:
    """Return what follows sandbox, port and time in a signed host name, path or header, or ""."""
    route = re.compile(rf"{re.escape(sandbox_id)}([-/]){port}\1[0-9a-z]+\1([0-9A-Za-z_]+)")
    return next((found[2] for found in map(route.search, texts) if found), "")


def _shape(value: Any) -> str:
    """Say what came without saying what was in it: it may hold what opens a sandbox."""
    return f"one with {', '.join(map(repr, value))[:200]}" if isinstance(value, dict) else type(value).__name__
