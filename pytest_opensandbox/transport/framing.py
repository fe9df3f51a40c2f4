"""Headers that belong to HTTP itself: who sets them from outside changes where a message ends, or to whom it goes."""

from __future__ import annotations

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


def is_of_http(name: str) -> bool:
    """Tell whether a header is HTTP's own affair, so that no endpoint may set it.

    Source: RFC 9110, sections 7.2, 7.6 and 8; RFC 9112, section 6.
    """
    return name.lower() in _OWN_HEADERS
