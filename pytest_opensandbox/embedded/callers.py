"""Who may ask: the key, the host name, and how much is taken in from somebody who has not shown the key."""

from __future__ import annotations

import copy
import hmac
import re
from collections.abc import Mapping
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser

from pytest_opensandbox.embedded.validation import RefusedError

_OPEN_PATHS = ("/health", "/version")
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)
_STRANGERS_BODY_BYTES = 65_536


def check_caller(environ: Mapping[str, Any], api_key: bytes) -> None:
    """Refuse callers without the key, and browsers that a foreign name led here.

    Args:
        environ: the request.
        api_key: what it must carry.

    Raises:
        RefusedError: with status 401 or 403.
    """
    host = environ.get("HTTP_HOST", "")
    if not _LOOPBACK.fullmatch(host):
        raise RefusedError(403, {"code": "HOST_NOT_ALLOWED", "message": f"This server is 127.0.0.1, not {host!r}."})
    if environ["PATH_INFO"].startswith(_OPEN_PATHS):
        return
    given = environ.get("HTTP_OPEN_SANDBOX_API_KEY", "")
    if not given:
        message = "Authentication credentials are missing. Provide API key via OPEN-SANDBOX-API-KEY header."
        raise RefusedError(401, {"code": "MISSING_API_KEY", "message": message})
    if not _is_key(given, api_key):
        message = "Authentication credentials are invalid. Check your API key and try again."
        raise RefusedError(401, {"code": "INVALID_API_KEY", "message": message})


def wary_channel(api_key: bytes) -> type[HTTPChannel]:
    """Return waitress's connection, with a small limit for the bodies of callers without the key.

    The server keeps a body, on the disk if it is long, before the application hears of the request.

    Args:
        api_key: what requests must carry.
    """

    class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
        """A request as it arrives, with a small limit for a stranger's."""

        adj: Any

        def parse_header(self, header_plus: bytes) -> None:
            """Read the head, and decide by it how long the body may be."""
            super().parse_header(header_plus)
            if not _is_key(self.headers.get("OPEN_SANDBOX_API_KEY", ""), api_key):
                self.adj = copy.copy(self.adj)
                self.adj.max_request_body_size = _STRANGERS_BODY_BYTES

    class Channel(HTTPChannel):  # type: ignore[misc]  # as above
        """A connection whose requests are read with that limit."""

        parser_class = Parser

    return Channel


def _is_key(given: str, api_key: bytes) -> bool:
    return hmac.compare_digest(given.encode(), api_key)
