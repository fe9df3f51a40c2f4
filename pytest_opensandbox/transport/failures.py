"""Error responses and connection failures, and the errors that they become."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import IncompleteRead, RemoteDisconnected
from ssl import SSLCertVerificationError
from typing import Any

import requests
import urllib3

from pytest_opensandbox.clock import wall_time
from pytest_opensandbox.errors import ApiError, AuthError, ConflictError, NotFoundError, TransportError
from pytest_opensandbox.transport.response import read_date, read_json
from pytest_opensandbox.transport.sockets import TooSlowError, root_cause
from pytest_opensandbox.transport.timeouts import RequestTimeout

MAX_ERROR_BYTES = 65_536
"""Most bytes that are read of an error's body."""
ERROR_HEADERS = ("Date", "Location", "Retry-After", "X-Request-ID")
"""The headers of a response that an error keeps."""
MAX_MESSAGE_CHARACTERS = 2_000

# The server answers 403, but neither another key nor a retry helps.
_QUOTA = "QUOTA_EXCEEDED"
_NO_SANDBOX = "SANDBOX_NOT_FOUND"
_NO_ADDRESS = "POD_IP_NOT_AVAILABLE"
# 409: the state has changed between two requests; the next request shows the new one.
_TRANSIENT_STATUSES = frozenset({409, 429, 502, 503, 504})
_KINDS: Mapping[int, type[ApiError]] = {401: AuthError, 403: AuthError, 404: NotFoundError, 409: ConflictError}
# Terminals interpret these characters, and a message may come from a sandbox.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Errors on a kept connection that the server has closed meanwhile.
_STALE = (RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_OWN_AUTHORITY = "name the file of a private authority with --opensandbox-ca-bundle or REQUESTS_CA_BUNDLE"


def api_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str,
    url: str,
    redact: Callable[[str], str] = str,
) -> ApiError:
    """Return the error for a response, whatever its body looks like.

    Args:
        status: HTTP status, 300 … 599.
        headers: those of ``ERROR_HEADERS`` that the response has.
        body: its body, or the beginning of its body.
        method: of the request.
        url: of the request, without credentials.
        redact: removes secrets from text. It gets the parsed text, because JSON can escape a secret in many ways.

    Source: opensandbox_server.main, its exception handlers; execd pkg/web/model/error.go.
    """
    code, message = map(redact, read_error(body))
    if 300 <= status < 400:
        target = headers.get("Location") or "nowhere"
        message = f"redirects are not followed, and this one leads to {target[:300]}: use the final address as the URL"
    kind = ApiError if code.endswith(_QUOTA) else _KINDS.get(status, ApiError)
    return kind(
        status,
        code=_clean(code)[:200],
        message=_clean(message)[:MAX_MESSAGE_CHARACTERS] or _phrase(status),
        request_id=_clean(headers.get("X-Request-ID") or "")[:200],
        method=method,
        url=url,
        retry_after_seconds=read_retry_after(headers.get("Retry-After"), headers.get("Date")),
    )


def with_advice(error: ApiError, advice: str) -> ApiError:
    """Return the error with advice after its message."""
    return type(error)(
        error.status,
        code=error.code,
        message=f"{error.message} ({advice})",
        request_id=error.request_id,
        method=error.method,
        url=error.url,
        retry_after_seconds=error.retry_after_seconds,
    )


def is_transient(error: ApiError | TransportError) -> bool:
    """Return whether the same request about a sandbox may succeed later."""
    return isinstance(error, TransportError) or error.status in _TRANSIENT_STATUSES or lacks_address(error)


def lacks_address(error: Exception) -> bool:
    """Return whether a sandbox exists and has no address now, as while Kubernetes moves it."""
    return isinstance(error, ApiError) and error.code.endswith(_NO_ADDRESS)


def has_no_sandbox(error: Exception) -> bool:
    """Return whether the server answers that the sandbox itself does not exist, and not a file or a route."""
    return isinstance(error, ApiError) and error.code.endswith(_NO_SANDBOX)


def read_error(body: bytes) -> tuple[str, str]:
    """Read the code and the message from an error's body.

    Returns:
        The code, "" where there is none, and the message, "" for an empty body.
    """
    text = body.decode("utf-8", "replace").strip()
    try:
        parsed = read_json(body, errors="replace")
    except ValueError:
        return "", text
    if not isinstance(parsed, dict):
        return "", text
    # Old servers, which had no error handler, write {"detail": {"code", "message"}}.
    detail = parsed.get("detail")
    for source in (parsed, detail):
        if isinstance(source, dict) and ("code" in source or "message" in source):
            return _as_text(source.get("code")), _as_text(source.get("message"))
    if isinstance(detail, list):
        return "", "; ".join(map(_validation, detail))
    return "", _as_text(detail) or _as_text(parsed.get("error")) or text


def read_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Read ``Retry-After``, which is either seconds or a date.

    Args:
        value: the header, or None.
        date: header ``Date`` of the same response, so that the server's clock is compared with itself.

    Returns:
        Seconds, not negative; None where the header is missing or invalid.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        moment = read_date(value)
        if moment is None:
            return None
        now = read_date(date)
        seconds = moment - (wall_time() if now is None else now)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _validation(entry: Any) -> str:
    """Return ``body.timeout: Input should be …`` for one entry of a validation error."""
    if not isinstance(entry, dict):
        return _as_text(entry)
    place = entry.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return ": ".join(part for part in (where, _as_text(entry.get("msg"))) if part)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _clean(text: str) -> str:
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def is_stale(error: Exception) -> bool:
    """Return whether the server closed a kept connection, perhaps before the request arrived."""
    return isinstance(root_cause(error), _STALE)


def is_unsent(error: Exception) -> bool:
    """Return whether no connection was made, so that the server cannot have done anything."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def describe_failure(error: Exception, timeouts: RequestTimeout) -> tuple[str, bool]:
    """Return the text for an error, and whether a time limit passed.

    Args:
        error: one of ``FAILURES``.
        timeouts: the limits of the request.
    """
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s", True
    cause = root_cause(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the environment's HTTP proxy failed ({cause}): see HTTP_PROXY, HTTPS_PROXY and NO_PROXY", False
    if isinstance(cause, SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}): {_OWN_AUTHORITY}", False
    if isinstance(cause, TooSlowError):
        return f"{cause}, the time limit has passed", True
    if isinstance(error, requests.Timeout) or isinstance(cause, (TimeoutError, urllib3.exceptions.ReadTimeoutError)):
        return f"no byte within {timeouts[1]:g} s", True
    if isinstance(cause, IncompleteRead) or type(cause) is ValueError:
        # The library counts missing bytes, and raises ValueError for a chunk's length that is no number.
        return "the connection ended in the middle of the response, or the response is not HTTP", False
    if isinstance(cause, RemoteDisconnected):
        return "the connection was closed without a response", False
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:], False
    return str(cause)[:300] or type(cause).__name__, False
