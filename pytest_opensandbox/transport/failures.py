"""Error bodies and connection failures, read into errors."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import IncompleteRead, RemoteDisconnected
from ssl import SSLCertVerificationError
from typing import Any

import requests
import urllib3

from pytest_opensandbox.errors import ApiError, AuthError, ConflictError, NotFoundError, TransportError
from pytest_opensandbox.transport.response import read_json
from pytest_opensandbox.transport.sockets import TooSlowError, root_cause

MAX_ERROR_BYTES = 65_536
"""Most that is read of an error's body."""
ERROR_HEADERS = ("Date", "Location", "Retry-After", "X-Request-ID")
"""The headers that say something about an error."""
MAX_MESSAGE_CHARACTERS = 2_000

# 403, and yet no key and no waiting helps.
_NO_ROOM = "QUOTA_EXCEEDED"
_NO_ADDRESS = "POD_IP_NOT_AVAILABLE"
# 409: between two looks the state has changed; the next look at it tells more.
_PASSING_STATUSES = frozenset({409, 429, 502, 503, 504})
_KINDS: Mapping[int, type[ApiError]] = {401: AuthError, 403: AuthError, 404: NotFoundError, 409: ConflictError}
# Terminals obey these, and a message may come out of a sandbox.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# What a server does to a connection that it closed while we kept it for later.
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
    """Return the error that an answer stands for, whatever its body looks like.

    Args:
        status: HTTP status, 300 … 599.
        headers: those of ``ERROR_HEADERS`` that the answer has.
        body: its body, or the beginning of it.
        method: of the request.
        url: of the request, without credentials.
        redact: takes secrets out of what the body says; JSON can write them in many ways, so it must be read before.

    Source: opensandbox_server.main, its exception handlers; execd pkg/web/model/error.go.
    """
    code, message = map(redact, read_error(body))
    if 300 <= status < 400:
        target = headers.get("Location") or "nowhere"
        message = f"redirects are not followed, and this one leads to {target[:300]}: use the final address as url"
    kind = ApiError if code.endswith(_NO_ROOM) else _KINDS.get(status, ApiError)
    return kind(
        status,
        code=_clean(code)[:200],
        message=_clean(message)[:MAX_MESSAGE_CHARACTERS] or _phrase(status),
        request_id=_clean(headers.get("X-Request-ID") or "")[:200],
        method=method,
        url=url,
        retry_after_seconds=read_retry_after(headers.get("Retry-After"), headers.get("Date")),
    )


def advised(error: ApiError, advice: str) -> ApiError:
    """Return the error with what to do about it behind its message."""
    return type(error)(
        error.status,
        code=error.code,
        message=f"{error.message} ({advice})",
        request_id=error.request_id,
        method=error.method,
        url=error.url,
        retry_after_seconds=error.retry_after_seconds,
    )


def may_pass(error: ApiError | TransportError) -> bool:
    """Tell whether a later look at a sandbox may find what this one did not."""
    return isinstance(error, TransportError) or error.status in _PASSING_STATUSES or has_no_address(error)


def has_no_address(error: Exception) -> bool:
    """Tell whether the server says that a sandbox exists and has no address now, as while Kubernetes moves it."""
    return isinstance(error, ApiError) and error.code.endswith(_NO_ADDRESS)


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
    # {"detail": {"code", "message"}} is how servers before their error handler wrote it.
    detail = parsed.get("detail")
    for source in (parsed, detail):
        if isinstance(source, dict) and ("code" in source or "message" in source):
            return _word(source.get("code")), _word(source.get("message"))
    if isinstance(detail, list):
        return "", "; ".join(map(_validation, detail))
    return "", _word(detail) or _word(parsed.get("error")) or text


def read_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Read ``Retry-After``, which is either seconds or a date.

    Args:
        value: the header, or None.
        date: the answer's own ``Date``, so that the server's clock is compared with itself.

    Returns:
        Seconds, not negative; None where the header is missing or means nothing.
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
        seconds = moment - (time.time() if now is None else now)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def read_date(value: str | None) -> float | None:
    """Read an HTTP date.

    Returns:
        Seconds since 1970, or None for what is no date.
    """
    try:
        return parsedate_to_datetime(value).timestamp() if value else None
    except (TypeError, ValueError, OverflowError):
        return None


def _validation(entry: Any) -> str:
    """Return ``body.timeout: Input should be …`` for one entry of a validation error."""
    if not isinstance(entry, dict):
        return _word(entry)
    place = entry.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return ": ".join(part for part in (where, _word(entry.get("msg"))) if part)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _clean(text: str) -> str:
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


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
        error: one of ``FAILURES``.
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
