"""One HTTP session, one way to ask, one place where what goes wrong becomes an error of ours."""

from __future__ import annotations

import json as json_format
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.client import HTTPException, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from math import inf
from ssl import SSLCertVerificationError
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from pytest_opensandbox.addresses import (
    API_VERSION_PATH,
    checked_url,
    is_loopback,
    is_own_proxy,
    server_root,
    spoken,
    without_secrets,
)
from pytest_opensandbox.answers import Answer
from pytest_opensandbox.deadlines import time_left
from pytest_opensandbox.errors import ApiError, TransportError
from pytest_opensandbox.keys import masked
from pytest_opensandbox.models import Endpoint
from pytest_opensandbox.refusals import ERROR_HEADERS, MAX_ERROR_BYTES, api_error, read_date
from pytest_opensandbox.wire import POOLS, root_cause

KEY_HEADER = "OPEN-SANDBOX-API-KEY"
CONNECT_TIMEOUT_SECONDS = 5.0
REQUEST_TIMEOUT_SECONDS = 30.0
ERROR_BODY_SECONDS = 3.0
"""How long the text of an error may take once its status is known; some promise bytes that never come."""

Timeouts = tuple[float, float]
Query = Sequence[tuple[str, str]]

_HEADERS = {"User-Agent": "pytest-opensandbox", "Accept": "*/*", "Accept-Encoding": "identity"}
_IDEMPOTENT = frozenset({"GET", "DELETE", "PATCH"})
_READ_BYTES = 65_536
_POOL_SIZE = 64
_TROUBLE = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, UnicodeError)
_OWN_AUTHORITY = "name the file of a private authority with --opensandbox-ca-bundle or REQUESTS_CA_BUNDLE"
# What a server does to a connection that it closed while we kept it for later.
_STALE = (RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Transport:
    """Speaks HTTP with one lifecycle server and the agents behind it; safe to use from several threads.

    Args:
        base_url: the server, with or without ``/v1``.
        api_key: its key, None where it needs none.
        connect_timeout: seconds for a connection.
        request_timeout: seconds between two bytes of an answer.
        trust_env: whether proxies and certificates of the environment count.
        ca_bundle: file with the certificates to trust, None for the usual ones.

    Raises:
        ConfigError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        request_timeout: float = REQUEST_TIMEOUT_SECONDS,
        trust_env: bool = True,
        ca_bundle: str | None = None,
    ) -> None:
        # First of all, so that no frame of ours shows the key in a traceback.
        self._key = api_key = masked(api_key)
        self.root = server_root(base_url)
        """The server's address without ``/v1``."""
        self.timeouts: Timeouts = (connect_timeout, request_timeout)
        """Seconds to connect, and between two bytes."""
        self._session = _session(trust_env=trust_env)
        # Asked for once: the environment's own bundle counts on this machine too, its proxy does not.
        self._verify = self._session.merge_environment_settings(self.root, {}, True, ca_bundle or True, None)["verify"]
        self._clock_lock = threading.Lock()
        self._clock_offset = 0.0

    def request(
        self,
        method: str,
        url_or_path: str,
        *,
        params: Query | None = None,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: Timeouts | None = None,
        with_key: bool = False,
    ) -> Answer:
        """Send one request and return its answer, the body unread.

        Args:
            method: HTTP method.
            url_or_path: a URL, or a path below ``/v1`` of the server; a path always carries the key.
            params: query, in order; names may repeat.
            json: body to be sent as JSON.
            body: body to be sent as it is; an iterable must have a length, in bytes.
            headers: on top of the usual ones.
            timeout: seconds to connect, and between two bytes.
            with_key: whether a URL carries the key.

        Raises:
            ApiError: an answer that is not 2xx; redirects are not followed.
            TransportError: no answer.
        """
        own = url_or_path.startswith("/")
        url = spoken(f"{self.root}{API_VERSION_PATH}{url_or_path}" if own else url_or_path)
        sent = {**_HEADERS, **(headers or {})}
        if json is not None:
            body, sent["Content-Type"] = json_format.dumps(json).encode(), "application/json"
        if self._key and (own or with_key):
            sent[KEY_HEADER] = self._key
        request = requests.Request(method, url, headers=sent, params=params, data=body)
        answer = self._exchange(request, _cut(timeout or self.timeouts))
        if own:
            self._note_clock(answer.headers.get("Date"))
        if 200 <= answer.status < 300:
            return answer
        raise self._refusal(answer, method, url)

    def ask(
        self,
        endpoint: Endpoint | str,
        method: str,
        path: str,
        *,
        params: Query | None = None,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: Timeouts | None = None,
    ) -> Answer:
        """Send one request to a port of a sandbox; arguments as for ``request``.

        The endpoint's headers go with it. The key does only where the endpoint is the server's own proxy, because
        everything else is in the hands of what runs in the sandbox.

        Raises:
            ApiError: an answer that is not 2xx.
            TransportError: no answer.
        """
        if isinstance(endpoint, str):
            endpoint = Endpoint(checked_url(endpoint))
        return self.request(
            method,
            f"{endpoint.url.removesuffix('/')}{path}",
            params=params,
            json=json,
            body=body,
            headers={**endpoint.headers, **(headers or {})},
            timeout=timeout,
            with_key=is_own_proxy(endpoint.url, self.root),
        )

    def within(self, seconds: float) -> Timeouts:
        """Return the usual time-outs, cut to what is left of a budget; seconds."""
        return min(self.timeouts[0], seconds), min(self.timeouts[1], seconds)

    def server_time(self) -> float:
        """Return the server's clock, as its last answer showed it; seconds since 1970."""
        with self._clock_lock:
            return time.time() + self._clock_offset

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def __repr__(self) -> str:
        return f"<Transport {self.root}>"

    def __reduce__(self) -> Any:
        raise TypeError("a transport holds connections and a key: make another one where it is needed")

    def _exchange(self, request: requests.Request, timeouts: Timeouts) -> Answer:
        def fail(error: Exception, silence: float | None = None) -> TransportError:
            reason, timed_out = _reason(error, timeouts if silence is None else (timeouts[0], silence))
            return TransportError(
                self._key.redact(reason), method=request.method, url=without_secrets(request.url), timed_out=timed_out
            )

        try:
            response = self._send(request, timeouts)
        except _TROUBLE as exc:
            # From None: the frames below hold the request with its key, and pytest -l would print them.
            raise fail(exc) from None
        return Answer(response.status_code, response.headers, read_some=_reader(response, fail), close=response.close)

    def _send(self, request: requests.Request, timeouts: Timeouts) -> requests.Response:
        """Send, and once more where a kept connection had gone stale and nothing can have happened twice."""
        # Not prepared by the session, which would add credentials from a netrc file.
        prepared = request.prepare()
        options = {"timeout": timeouts, "allow_redirects": False, "stream": True, **self._route(request.url)}
        try:
            return self._session.send(prepared, **options)
        except requests.ConnectionError as exc:
            if request.method not in _IDEMPOTENT or not isinstance(root_cause(exc), _STALE):
                raise
            return self._session.send(prepared, **options)

    def _route(self, url: str) -> dict[str, Any]:
        """Return which proxy and which certificates count for a URL; none of the environment's on this machine."""
        if is_loopback(url):
            return {"proxies": {}, "verify": self._verify, "cert": None}
        route = dict(self._session.merge_environment_settings(url, {}, True, self._verify, None))
        del route["stream"]
        return route

    def _refusal(self, answer: Answer, method: str, url: str) -> ApiError:
        body = bytearray()
        deadline = time.monotonic() + ERROR_BODY_SECONDS
        with answer:
            try:
                for piece in answer.chunks(timeout=lambda: deadline - time.monotonic()):
                    body += piece
                    if len(body) >= MAX_ERROR_BYTES:
                        break
            except TransportError as exc:
                # The status is known, and worth more than the news that its text broke off.
                body += b"" if body else str(exc).encode()
        text = self._key.redact(body.decode("utf-8", "replace"))
        headers = {name: self._key.redact(answer.headers.get(name) or "") for name in ERROR_HEADERS}
        return api_error(answer.status, headers, text.encode(), method=method, url=without_secrets(url))

    def _note_clock(self, date: str | None) -> None:
        moment = read_date(date)
        if moment is not None:
            with self._clock_lock:
                self._clock_offset = moment - time.time()


def _session(*, trust_env: bool) -> requests.Session:
    session = requests.Session()
    session.trust_env = trust_env
    # A cookie knows no port, so what one sandbox sets on 127.0.0.1 would be sent to all others.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        adapter = HTTPAdapter(pool_connections=_POOL_SIZE, pool_maxsize=_POOL_SIZE)
        adapter.poolmanager.pool_classes_by_scheme = POOLS
        session.mount(scheme, adapter)
    return session


def _reader(
    response: requests.Response, fail: Callable[[Exception, float | None], TransportError]
) -> Callable[[float | None], bytes]:
    """Return a function that reads what has arrived; ``iter_content`` would wait until its buffer is full."""
    raw = response.raw

    def read_some(seconds: float | None) -> bytes:
        try:
            # A peer that speaks HTTP/1.0 takes the socket out of reach; then the request's own time-out stays.
            sock = getattr(raw.connection, "sock", None)
            if time_left() != inf:
                seconds = min(inf if seconds is None else seconds, time_left())
            if seconds is not None and sock is not None:
                sock.settimeout(max(seconds, 0.001))
            piece: bytes = raw.read1(_READ_BYTES)
        except _TROUBLE as exc:
            raise fail(exc, seconds) from None
        return piece

    return read_some


def _cut(timeouts: Timeouts) -> Timeouts:
    """Return the time-outs, none of them longer than what is left of a time limit."""
    left = max(round(time_left(), 2), 0.01)
    return min(timeouts[0], left), min(timeouts[1], left)


def _reason(error: Exception, timeouts: Timeouts) -> tuple[str, bool]:
    """Return a plain sentence for an error, and whether it says that time was up."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {timeouts[0]:g} s", True
    cause = root_cause(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the environment's HTTP proxy failed ({cause}): see HTTP_PROXY, HTTPS_PROXY and NO_PROXY", False
    if isinstance(cause, SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}): {_OWN_AUTHORITY}", False
    if isinstance(error, requests.Timeout) or isinstance(cause, (TimeoutError, urllib3.exceptions.ReadTimeoutError)):
        return f"no byte within {timeouts[1]:g} s", True
    if isinstance(cause, RemoteDisconnected):
        return "the connection was closed without an answer", False
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:], False
    return str(cause)[:300] or type(cause).__name__, False
