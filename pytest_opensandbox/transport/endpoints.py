"""URLs and headers of servers and endpoints, and which of them may see the API key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pytest_opensandbox.errors import ConfigError, ProtocolError
from pytest_opensandbox.text import MaskedText, hide, redacted

API_VERSION_PATH = "/v1"

_PROXY_PATH = r"/sandboxes/[^/]+/proxy/\d+"
_OWN_PROXY = re.compile(rf"(/v1)?{_PROXY_PATH}/")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65_535
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def server_root(url: str) -> str:
    """Return the address of a lifecycle server without ``/v1`` and without a slash at its end.

    Args:
        url: ``http(s)://host[:port]``, perhaps with a path, with or without ``/v1``.

    Raises:
        ConfigError: not such a URL, or it holds a user name, a query or a fragment.
    """
    return checked_url(url).removesuffix(API_VERSION_PATH)


def checked_url(url: str) -> str:
    """Return a URL that a user typed, without slashes at its end.

    Raises:
        ConfigError: not an http URL, or it holds a user name, a query or a fragment.
    """
    parts = _split(url.strip())
    if parts is None:
        raise ConfigError("url", "be http:// or https:// with a host and a valid port", _shown(url))
    if parts.username is not None or parts.password is not None:
        raise ConfigError("url", "hold no user name or password", _shown(url))
    if parts.query or parts.fragment:
        raise ConfigError("url", "hold no query and no fragment", _shown(url))
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def endpoint_url(text: str, *, scheme: str) -> str:
    """Return the URL of an endpoint, which servers mostly write as ``host[:port][/path]``.

    Args:
        text: the server's text.
        scheme: scheme of the URL where the text has none.

    Returns:
        URL with its scheme and path, without one slash at its end.

    Raises:
        ProtocolError: not an address, or an address with a user name, a query or a fragment.
    """
    url = text if "://" in text else f"{scheme}://{text}"
    parts = _split(url)
    if parts is None or parts.username is not None or parts.query or parts.fragment or re.search(r"\s", url):
        raise ProtocolError(f"an endpoint must be host[:port][/path], the server sent {_shown(text)!r}")
    return url.removesuffix("/")


def own_proxy_url(url: str, root: str, *, opened_by: Iterable[str] = ()) -> str:
    """Return the URL of an endpoint in the server's proxy, below the address that the client uses for the server.

    The server may write another name (``eip``), leave out its port, or write a name that does not resolve here. The
    URL of any other endpoint is returned as it is.

    Args:
        url: the endpoint, from ``endpoint_url``.
        root: the server, from ``server_root``.
        opened_by: values of the endpoint's headers. A value that is also the first segment of the path stays there:
            it opens the port to clients that do not send the header.
    """
    path = re.search(rf"{_PROXY_PATH}$", url)
    first = next((f"/{value}" for value in opened_by if urlsplit(url).path.startswith(f"/{value}/")), "")
    return f"{root}{first}{API_VERSION_PATH}{path[0]}" if path else url


def check_endpoint_url(url: str) -> None:
    """Refuse the URL of an endpoint that no request can be sent to.

    Raises:
        ConfigError: not an http URL with a host and a valid port; shows no password.
    """
    if _split(resolve_localhost(url)) is None:
        raise ConfigError("endpoint", "have a URL with http:// or https://, a host and a valid port", _shown(url))


def is_own_proxy(url: str, root: str) -> bool:
    """Return whether a URL is the lifecycle server's own proxy to a sandbox, which requires the key.

    Args:
        url: of the request.
        root: the server, from ``server_root``.
    """
    parts, own = _split(resolve_localhost(url)), _split(resolve_localhost(root))
    if parts is None or own is None or _origin(parts) != _origin(own) or parts.username is not None:
        return False
    # A gateway that normalises a path with ".." would send the request outside the proxy.
    if any(unquote(segment) in (".", "..") for segment in parts.path.split("/")) or "\\" in unquote(parts.path):
        return False
    return parts.path.startswith(own.path) and _OWN_PROXY.match(f"{parts.path[len(own.path) :]}/") is not None


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine, so that no proxy of the environment applies."""
    parts = _split(url)
    host = "" if parts is None else parts.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def resolve_localhost(url: str) -> str:
    """Return a URL with 127.0.0.1 for ``localhost``, because agents listen on IPv4 only.

    With https the name stays, because the certificate names it. A masked URL stays masked.
    """
    return type(url)(re.sub(r"^http://localhost(?=[:/]|$)", "http://127.0.0.1", url, count=1, flags=re.IGNORECASE))


def path_segment(field: str, value: str) -> str:
    """Return an opaque id, quoted as one segment of a path.

    Raises:
        ConfigError: the id is empty, or would change the path around it.
    """
    if not isinstance(value, str) or value in ("", ".", ".."):
        raise ConfigError(field, "be an id that the server gave", value)
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise ConfigError(field, "be text that UTF-8 can write", value) from None


def without_secrets(url: str) -> str:
    """Return a URL for messages, without credentials and query."""
    parts = _split(url)
    if parts is None:
        return _shown(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult | None:
    """Split an http or https URL; None for anything else."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]


def _shown(url: str) -> str:
    """Return an invalid URL for a message, without what may be a password."""
    return re.sub(r"[^/@]+@", "***@", url)[:200]


def is_reserved_header(name: str) -> bool:
    """Return whether a header controls HTTP itself, so that no endpoint may set it.

    Such a header changes where a message ends or who receives it.

    Source: RFC 9110, sections 7.2, 7.6 and 8; RFC 9112, section 6.
    """
    return name.lower() in _OWN_HEADERS


@dataclass(frozen=True)
class Endpoint:
    """The address of one port of a sandbox, with the headers that every request to it must carry."""

    url: str
    """Base URL with scheme, without a trailing slash; its path may hold a secret."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers to send on every request; their values may be secrets, so ``repr`` shows none."""
    sandbox_id: str = ""
    """Id of the sandbox, "" for an endpoint that was made from a URL."""
    signature: str = ""
    """The secret part of a signed address, "" for an address without one."""

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
        """Texts that no message may show: the signature and the headers, except one that only names the sandbox."""
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
    """Return a port after checking its number.

    Raises:
        ConfigError: not a whole number from 1 to 65,535.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= _MAX_PORT:
        raise ConfigError("port", f"be a whole number, 1 to {_MAX_PORT}, such as 8000", port)
    return port


def read_endpoint(body: Any, *, sandbox_id: str, port: int, root: str, through_server: bool = False) -> Endpoint:
    """Read the server's response with the address of a port.

    Args:
        body: JSON of the response.
        sandbox_id: the requested sandbox.
        port: the requested port.
        root: the server's own address; its scheme counts where the response has none.
        through_server: whether the server's own proxy was requested.

    Raises:
        ProtocolError: not an address, or headers that no request can carry. The text shows no value of a header.

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
            raise ProtocolError(f"the headers of an endpoint must be valid in HTTP, {name!r} is not")
        if is_reserved_header(name):
            raise ProtocolError(f"the headers of an endpoint must not control HTTP itself, {name!r} does")
    return headers


def _signature(texts: list[str], sandbox_id: str, port: int) -> str:
    """Return what follows sandbox, port and time in a signed host name, path or header; "" where nothing does."""
    route = re.compile(rf"{re.escape(sandbox_id)}([-/]){port}\1[0-9a-z]+\1([0-9A-Za-z_]+)")
    return next((found[2] for found in map(route.search, texts) if found), "")


def _shape(value: Any) -> str:
    """Describe a value without its content, which may be a secret."""
    return f"one with {', '.join(map(repr, value))[:200]}" if isinstance(value, dict) else type(value).__name__
