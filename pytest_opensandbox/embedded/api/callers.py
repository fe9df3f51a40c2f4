"""Which callers may ask: by the API key, by a sandbox's secret in the path, and by the host name that they use."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any

from pytest_opensandbox.embedded.errors import RefusedError

KEY_HEADER = "OPEN_SANDBOX_API_KEY"
"""The header of the API key, as waitress and WSGI spell it."""

_OPEN_PATHS = ("/health", "/version")
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)
_SECRET_ROUTE = re.compile(r"/(?P<secret>[0-9a-f]{32})(?:/v1)?/sandboxes/(?P<id>[^/]+)/proxy/\d+(?:/|$)")


class Callers:
    """Knows the API key, and the secret of each sandbox.

    Args:
        api_key: opens everything.
        find_secret: returns a sandbox's secret, which opens the proxy to this sandbox, or "" where there is none.
    """

    def __init__(self, api_key: str, find_secret: Callable[[str], str]) -> None:
        self._api_key = api_key
        self._find_secret = find_secret

    def check(self, environ: Mapping[str, Any]) -> None:
        """Refuse callers who may not ask, and browsers that a foreign name led here.

        Args:
            environ: the request.

        Raises:
            RefusedError: with status 401, 403, or 404 where a sandbox's proxy is asked for and the sandbox is gone.
        """
        host = environ.get("HTTP_HOST", "")
        if not _LOOPBACK.fullmatch(host):
            message = f"This server is 127.0.0.1, not {host!r}."
            raise RefusedError(403, {"code": "HOST_NOT_ALLOWED", "message": message})
        given, path = environ.get(f"HTTP_{KEY_HEADER}", ""), environ["PATH_INFO"]
        if path.startswith(_OPEN_PATHS) or self.are_known(given, path):
            return
        if (match := _SECRET_ROUTE.match(path)) and not self._find_secret(match["id"]):
            # As the real server's open proxy says it of a sandbox that has gone; its id was no secret.
            message = f"Sandbox {match['id']} not found."
            raise RefusedError(404, {"code": "DOCKER::SANDBOX_NOT_FOUND", "message": message})
        if not given:
            message = "Authentication credentials are missing. Provide API key via OPEN-SANDBOX-API-KEY header."
            raise RefusedError(401, {"code": "MISSING_API_KEY", "message": message})
        message = "Authentication credentials are invalid. Check your API key and try again."
        raise RefusedError(401, {"code": "INVALID_API_KEY", "message": message})

    def are_known(self, given: str, path: str) -> bool:
        """Say whether a request shows the API key, or in its path the secret of the sandbox that it goes to.

        Args:
            given: what it has in the key's header.
            path: its decoded path.
        """
        if _is_equal(given, self._api_key):
            return True
        match = _SECRET_ROUTE.match(path)
        if match is None:
            return False
        secret = self._find_secret(match["id"])
        return secret != "" and _is_equal(match["secret"], secret)


def _is_equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), secret.encode())
