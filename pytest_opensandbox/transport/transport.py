"""The HTTP session with one server and its agents, and the one place where failures become errors."""

from __future__ import annotations

import json as json_format
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from pytest_opensandbox.clock import wall_time
from pytest_opensandbox.errors import ApiError, ConfigError, TransportError
from pytest_opensandbox.text import redacted, without_hidden
from pytest_opensandbox.transport.api_key import masked
from pytest_opensandbox.transport.endpoints import (
    API_VERSION_PATH,
    Endpoint,
    check_endpoint_url,
    checked_url,
    is_loopback,
    is_own_proxy,
    is_reserved_header,
    resolve_localhost,
    server_root,
    without_secrets,
)
from pytest_opensandbox.transport.failures import (
    ERROR_HEADERS,
    MAX_ERROR_BYTES,
    api_error,
    describe_failure,
    is_stale,
    is_unsent,
)
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.retry import current_deadline, time_limit
from pytest_opensandbox.transport.sockets import FAILURES, POOLS
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, RequestTimeout, Timeouts

if TYPE_CHECKING:
    from pytest_opensandbox.transport.websocket import WebSocket

KEY_HEADER = "OPEN-SANDBOX-API-KEY"
Query = Sequence[tuple[str, str]]

_HEADERS = {"User-Agent": "pytest-opensandbox", "Accept": "*/*", "Accept-Encoding": "identity"}
_IDEMPOTENT = frozenset({"GET", "DELETE", "PATCH"})
_POOL_SIZE = 64
_LAST_MOMENT = 7_258_118_400.0  # the year 2200
_BODY_SILENCES = 10  # a body may take ten times as long as the silence between two of its bytes


class Transport:
    """Sends HTTP requests to one lifecycle server and the agents behind it; safe to use from several threads.

    Args:
        base_url: the server, with or without ``/v1``.
        api_key: its key, None where it needs none.
        trust_env: whether to use the environment's proxies and certificates.
        ca_bundle: file with the trusted certificates, None for the usual ones.
        timeouts: the lengths of all waits.

    Raises:
        ConfigError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        trust_env: bool = True,
        ca_bundle: str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        # This comes first, so that no frame shows the key in a traceback.
        self._key = api_key = masked(api_key)
        self.root = server_root(base_url)
        """The server's address without ``/v1``."""
        self.timeouts = timeouts
        """The lengths of all waits."""
        self._http = HTTPSession(trust_env=trust_env)
        # The environment's certificates apply on this machine, too; its proxy does not.
        settings = self._http.for_process().merge_environment_settings(self.root, {}, True, ca_bundle or True, None)
        self._verify = settings["verify"]
        self._clock = ServerClock()

    def replace_server(self, base_url: str, api_key: str) -> None:
        """Send requests to another server from now on, which replaces one that died.

        Args:
            base_url: the new server, on the machine of the old one.
            api_key: its key.
        """
        # No request may carry one server's key to the other.
        self._key = masked(None)
        self.root = server_root(base_url)
        self._key = masked(api_key)

    def request(
        self,
        method: str,
        url_or_path: str,
        *,
        params: Query | None = None,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: RequestTimeout | None = None,
        with_key: bool = False,
        secrets: Sequence[str] = (),
    ) -> Response:
        """Send one request and return the response with its body unread.

        Args:
            method: HTTP method.
            url_or_path: a URL, or a path below ``/v1`` of the server; a path always carries the key.
            params: query, in order; names may repeat.
            json: body to send as JSON.
            body: body to send as it is; an iterable must have a length, in bytes.
            headers: additional headers.
            timeout: limits of this request; default those of ``timeouts``.
            with_key: whether a URL carries the key.
            secrets: texts that no error may show, besides the key.

        Raises:
            ApiError: a response that is not 2xx; redirects are not followed.
            TransportError: no response.
        """
        own = url_or_path.startswith("/")
        url = resolve_localhost(f"{self.root}{API_VERSION_PATH}{url_or_path}" if own else url_or_path)
        all_headers = {**_HEADERS, **(headers or {})}
        if json is not None:
            body, all_headers["Content-Type"] = json_format.dumps(json).encode(), "application/json"
        if self._key and (own or with_key):
            all_headers[KEY_HEADER] = self._key
        request = requests.Request(method, url, headers=all_headers, params=params, data=body)
        response = self._exchange(request, current_deadline().cut(timeout or self.timeouts.request_timeout), secrets)
        if own:
            self._clock.note(response.date)
        if 200 <= response.status < 300:
            return response
        raise self._read_error(response, method, url, secrets)

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
        timeout: RequestTimeout | None = None,
    ) -> Response:
        """Send one request to a port of a sandbox; arguments as for ``request``.

        The request carries the endpoint's headers. It carries the key only where the endpoint is the server's own
        proxy, because programs in the sandbox control every other endpoint.

        Raises:
            ConfigError: the endpoint is not a URL, or has headers that control HTTP itself.
            ApiError: a response that is not 2xx.
            TransportError: no response.
        """
        endpoint = _checked(endpoint)
        return self.request(
            method,
            _url_of(endpoint, path),
            params=params,
            json=json,
            body=body,
            headers={**endpoint.headers, **(headers or {})},
            timeout=timeout,
            with_key=is_own_proxy(endpoint.url, self.root),
            secrets=endpoint.secrets,
        )

    def open_websocket(self, endpoint: Endpoint | str, path: str) -> WebSocket:
        """Open a WebSocket connection to a port of a sandbox; headers and key as for ``ask``.

        Raises:
            ConfigError: as for ``ask``.
            ApiError: the change of protocol is refused.
            TransportError: no response.
        """
        # Lazy: few runs need it.
        from pytest_opensandbox.transport.websocket import open_websocket

        endpoint = _checked(endpoint)
        url = resolve_localhost(_url_of(endpoint, path))
        key = {KEY_HEADER: self._key} if self._key and is_own_proxy(endpoint.url, self.root) else {}
        return open_websocket(
            url,
            {**endpoint.headers, **key},
            route=self._route(url),
            timeouts=self.timeouts,
            redact=lambda text: self._redact(text, endpoint.secrets),
        )

    def server_time(self) -> float:
        """Return the time on the server's clock, by its last response; seconds since 1970."""
        return self._clock.now()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<Transport {self.root}>"

    def __reduce__(self) -> Any:
        raise TypeError("a transport holds connections and a key and cannot be pickled: make another one")

    def _exchange(self, request: requests.Request, timeouts: RequestTimeout, secrets: Sequence[str]) -> Response:
        def as_error(error: Exception, silence_seconds: float = timeouts[1]) -> TransportError:
            reason, timed_out = describe_failure(error, (timeouts[0], silence_seconds))
            said, url = (self._redact(text, secrets) for text in (reason, without_secrets(request.url)))
            unsent = is_unsent(error) and not was_sent
            return TransportError(said, method=request.method, url=url, timed_out=timed_out, unsent=unsent)

        was_sent = False
        while True:
            try:
                response = self._send(request, timeouts)
                break
            except FAILURES as exc:
                # The server may close a kept connection at any time. Repeating an idempotent request does no harm.
                if was_sent or request.method not in _IDEMPOTENT or not is_stale(exc):
                    # From None: the frames below hold the request with its key, and pytest -l would print them.
                    raise as_error(exc) from None
                was_sent = True
        return Response(
            response,
            as_error=as_error,
            silence_seconds=timeouts[1],
            max_seconds=min(_BODY_SILENCES * timeouts[1], self.timeouts.body_seconds),
        )

    def _send(self, request: requests.Request, timeouts: RequestTimeout) -> requests.Response:
        options = {"timeout": timeouts, "allow_redirects": False, "stream": True, **self._route(request.url)}
        # The session would add credentials from a netrc file, so it does not prepare the request.
        return self._http.for_process().send(request.prepare(), **options)

    def _route(self, url: str) -> dict[str, Any]:
        """Return the proxy and the certificates for a URL; on this machine no proxy applies."""
        if is_loopback(url):
            return {"proxies": {}, "verify": self._verify, "cert": None}
        route = dict(self._http.for_process().merge_environment_settings(url, {}, True, self._verify, None))
        del route["stream"]
        return route

    def _read_error(self, response: Response, method: str, url: str, secrets: Sequence[str]) -> ApiError:
        body = bytearray()
        with response, time_limit(self.timeouts.error_body_seconds):
            try:
                while len(body) < MAX_ERROR_BYTES and (piece := response.read_some()):
                    body += piece
            except TransportError as exc:
                # The status is known, and worth more than the failure to read the text.
                body += b"" if body else str(exc).encode()

        def redact(text: str) -> str:
            return self._redact(text, secrets)

        headers = {name: redact(response.headers.get(name) or "") for name in ERROR_HEADERS}
        shown = redact(without_secrets(url))
        return api_error(response.status, headers, bytes(body), method=method, url=shown, redact=redact)

    def _redact(self, text: str, secrets: Sequence[str]) -> str:
        return self._key.redact(redacted(text, secrets))


def _checked(endpoint: Endpoint | str) -> Endpoint:
    """Return an endpoint whose address and headers can be used.

    Raises:
        ConfigError: the endpoint is not a URL, or has headers that control HTTP itself.
    """
    if isinstance(endpoint, str):
        endpoint = Endpoint(checked_url(endpoint))
    check_endpoint_url(endpoint.url)
    if reserved := [name for name in endpoint.headers if is_reserved_header(name)]:
        raise ConfigError("headers", "not control HTTP itself", reserved)
    return endpoint


def _url_of(endpoint: Endpoint, path: str) -> str:
    return type(endpoint.url)(f"{endpoint.url.removesuffix('/')}{path}")


class _PathFilter(logging.Filter):
    """Masks secrets in the paths that the HTTP library logs at its debug level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without secrets."""
        if isinstance(record.args, tuple):
            record.args = tuple(without_hidden(value) if isinstance(value, str) else value for value in record.args)
        return True


_path_filter = _PathFilter()


class HTTPSession:
    """One requests session for each process.

    Args:
        trust_env: whether to use the environment's proxies and certificates.
    """

    def __init__(self, *, trust_env: bool) -> None:
        logging.getLogger("urllib3.connectionpool").addFilter(_path_filter)
        self._trust_env = trust_env
        self._process = os.getpid()
        self._session = _session(trust_env=trust_env)

    def for_process(self) -> requests.Session:
        """Return the session of this process; safe to use from several threads."""
        # On connections that a fork shares with its parent, each would read the other's responses.
        if self._process != os.getpid():
            self._session, self._process = _session(trust_env=self._trust_env), os.getpid()
        return self._session

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Session(requests.Session):
    """A session without redirects: to find the target it would read and unpack the whole body first."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def _session(*, trust_env: bool) -> requests.Session:
    session = _Session()
    session.trust_env = trust_env
    # A cookie has no port, so a cookie from one sandbox on 127.0.0.1 would be sent to all others.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        adapter = HTTPAdapter(pool_connections=_POOL_SIZE, pool_maxsize=_POOL_SIZE)
        adapter.poolmanager.pool_classes_by_scheme = POOLS
        session.mount(scheme, adapter)
    return session


class ServerClock:
    """The clock of a server, by its responses; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = 0.0

    def note(self, moment: float | None) -> None:
        """Note the time of a response; None, or a time after the year 2200, is ignored.

        Args:
            moment: seconds since 1970.
        """
        # Times that are computed from this one must be valid dates, too.
        if moment is not None and 0 <= moment < _LAST_MOMENT:
            with self._lock:
                self._offset = moment - wall_time()

    def now(self) -> float:
        """Return the time; seconds since 1970."""
        with self._lock:
            return wall_time() + self._offset
