"""What goes wrong between here and a server, in plain words, and whether it happened before anything was sent."""

from __future__ import annotations

from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from ssl import SSLCertVerificationError

import requests
import urllib3

from pytest_opensandbox.transport.sockets import TooSlowError, root_cause

TROUBLE = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, UnicodeError)
"""Everything that the HTTP libraries raise where no whole answer comes."""

# What a server does to a connection that it closed while we kept it for later.
_STALE = (RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_OWN_AUTHORITY = "name the file of a private authority with --opensandbox-ca-bundle or REQUESTS_CA_BUNDLE"


def is_stale(error: Exception) -> bool:
    """Tell whether a kept connection was closed at its other end, which may have been before the request came."""
    return isinstance(root_cause(error), _STALE)


def is_unsent(error: Exception) -> bool:
    """Tell whether there was no connection at all, so that the other end cannot have done anything."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def explain(error: Exception, timeouts: tuple[float, float]) -> tuple[str, bool]:
    """Return a plain sentence for an error, and whether it says that time was up.

    Args:
        error: one of ``TROUBLE``.
        timeouts: seconds that were given to connect, and between two bytes.
    """
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s", True
    cause = root_cause(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the environment's HTTP proxy failed ({cause}): see HTTP_PROXY, HTTPS_PROXY and NO_PROXY", False
    if isinstance(cause, SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}): {_OWN_AUTHORITY}", False
    if isinstance(cause, TooSlowError):
        return f"{cause}, its time is over", True
    if isinstance(error, requests.Timeout) or isinstance(cause, (TimeoutError, urllib3.exceptions.ReadTimeoutError)):
        return f"no byte within {timeouts[1]:g} s", True
    if isinstance(cause, IncompleteRead) or type(cause) is ValueError:
        # The library counts what is missing, or says of nothing at all that it is no number.
        return "the connection ended in the middle of the answer, or what came is no HTTP", False
    if isinstance(cause, RemoteDisconnected):
        return "the connection was closed without an answer", False
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:], False
    return str(cause)[:300] or type(cause).__name__, False
