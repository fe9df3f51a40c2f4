"""URLs: the server's own, the endpoints it hands out, and which of them may see the key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pytest_opensandbox.errors import ConfigError, ProtocolError

API_VERSION_PATH = "/v1"

_PROXY_PATH = r"/sandboxes/[^/]+/proxy/\d+"
_OWN_PROXY = re.compile(rf"(/v1)?{_PROXY_PATH}/")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def server_root(url: str) -> str:
    """Return the address of a lifecycle server without ``/v1`` and without a slash at its end.

    Args:
        url: ``http(s)://host[:port]``, perhaps with a path, with or without ``/v1``.

    Raises:
        ConfigError: not such a URL, or it holds a user name, a query or a fragment.
    """
    return checked_url(url).removesuffix(API_VERSION_PATH)


def checked_url(url: str) -> str:
    """Return a URL that somebody typed, without slashes at its end.

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
    """Return the URL of an endpoint as the server writes it: ``host[:port][/path]``, mostly without a scheme.

    Args:
        text: the server's text.
        scheme: what to put in front where the text has none.

    Returns:
        URL with scheme, its path kept, without one slash at its end.

    Raises:
        ProtocolError: not an address, or one with a user name, a query or a fragment.
    """
    url = text if "://" in text else f"{scheme}://{text}"
    parts = _split(url)
    if parts is None or parts.username is not None or parts.query or parts.fragment or re.search(r"\s", url):
        raise ProtocolError(f"an endpoint must be host[:port][/path], the server sent {_shown(text)!r}")
    return url.removesuffix("/")


def own_proxy_url(url: str, root: str, *, opened_by: Iterable[str] = ()) -> str:
    """Return an endpoint in the server's proxy below the address by which we know the server; another one as it is.

    The server may write a name of its own there (``eip``), without its port, or one that is not known from here.

    Args:
        url: the endpoint, from ``endpoint_url``.
        root: the server, from ``server_root``.
        opened_by: the values of the endpoint's headers. One that is also the first segment of the path stays there,
            because it opens the port to clients that do not send the header.
    """
    path = re.search(rf"{_PROXY_PATH}$", url)
    first = next((f"/{value}" for value in opened_by if urlsplit(url).path.startswith(f"/{value}/")), "")
    return f"{root}{first}{API_VERSION_PATH}{path[0]}" if path else url


def is_own_proxy(url: str, root: str) -> bool:
    """Tell whether a URL is the lifecycle server's own proxy to a sandbox, which asks for the key.

    Args:
        url: where a request is to go.
        root: the server, from ``server_root``.
    """
    parts, own = _split(spoken(url)), _split(spoken(root))
    if parts is None or own is None or _origin(parts) != _origin(own) or parts.username is not None:
        return False
    # A path that climbs would leave the proxy once it is normalised on its way.
    if any(unquote(segment) in (".", "..") for segment in parts.path.split("/")) or "\\" in unquote(parts.path):
        return False
    return parts.path.startswith(own.path) and _OWN_PROXY.match(f"{parts.path[len(own.path) :]}/") is not None


def is_loopback(url: str) -> bool:
    """Tell whether a URL stays on this machine, where no proxy of the environment can reach."""
    parts = _split(url)
    host = "" if parts is None else parts.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def spoken(url: str) -> str:
    """Return a URL as it is spoken: ``localhost`` as 127.0.0.1, because agents listen on IPv4 only.

    With https the name stays, since the certificate is made out to it. A masked URL stays masked.
    """
    return type(url)(re.sub(r"^http://localhost(?=[:/]|$)", "http://127.0.0.1", url, count=1, flags=re.IGNORECASE))


def path_segment(field: str, value: str) -> str:
    """Return an opaque id quoted as one segment of a path.

    Raises:
        ConfigError: empty, or a segment that would change the path around it.
    """
    if not isinstance(value, str) or value in ("", ".", ".."):
        raise ConfigError(field, "be an id that the server gave", value)
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise ConfigError(field, "be text that UTF-8 can write", value) from None


def without_secrets(url: str) -> str:
    """Return a URL for messages: without credentials and without its query."""
    parts = _split(url)
    if parts is None:
        return _shown(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult | None:
    """Take an http URL apart; None where it is none."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]


def _shown(url: str) -> str:
    """Return a broken URL for a message, without what may be a password."""
    return re.sub(r"[^/@]+@", "***@", url)[:200]
