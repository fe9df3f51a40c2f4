"""HTTP with one server and its agents: one session, one request, one place where failures become errors."""

from __future__ import annotations

import json as json_format
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from pytest_opensandbox.errors import ApiError, ConfigError, TransportError
from pytest_opensandbox.text import redacted, without_hidden
from pytest_opensandbox.transport.api_key import masked
from pytest_opensandbox.transport.endpoints import (
    API_VERSION_PATH,
    Endpoint,
    checked_url,
    is_loopback,
    is_of_http,
    is_own_proxy,
    server_root,
    spoken,
    without_secrets,
)
from pytest_opensandbox.transport.failures import (
    ERROR_HEADERS,
    MAX_ERROR_BYTES,
    api_error,
    explain,
    is_stale,
    is_unsent,
    read_date,
)
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.retry import current_deadline, time_limit
from pytest_opensandbox.transport.sockets import FAILURES, POOLS
from pytest_opensandbox.transport.timeouts import DEFAULT_TIMEOUTS, RequestTimeout, Timeouts

KEY_HEADER = "OPEN-SANDBOX-API-KEY"
Query = Sequence[tuple[str, str]]

_HEADERS = {"User-Agent": "pytest-opensandbox", "Accept": "*/*", "Accept-Encoding": "identity"}
_IDEMPOTENT = frozenset({"GET", "DELETE", "PATCH"})
_POOL_SIZE = 64
_LAST_MOMENT = 7_258_118_400.0  # the year 2200
_BODY_SILENCES = 10  # a body may take as many times as long as the silence between two of its bytes


class Transport:
    """Speaks HTTP with one lifecycle server and the agents behind it; safe to use from several threads.

    Args:
        base_url: the server, with or without ``/v1``.
        api_key: its key, None where it needs none.
        trust_env: whether proxies and certificates of the environment count.
        ca_bundle: file with the certificates to trust, None for the usual ones.
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
        # First of all, so that no frame of ours shows the key in a traceback.
        self._key = api_key = masked(api_key)
        self.root = server_root(base_url)
        """The server's address without ``/v1``."""
        self.timeouts = timeouts
        """The lengths of all waits."""
        self._http = HTTPSession(trust_env=trust_env)
        # Asked for once: the environment's own bundle counts on this machine too, its proxy does not.
        usual = self._http.of_process().merge_environment_settings(self.root, {}, True, ca_bundle or True, None)
        self._verify = usual["verify"]
        self._clock = ServerClock()

    def replace_server(self, base_url: str, api_key: str) -> None:
        """Speak from now on with another server, which has been started in the place of one that died.

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
            secrets: what no error may show, besides the key.

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
        answer = self._exchange(request, current_deadline().cut(timeout or self.timeouts.request_timeout), secrets)
        if own:
            self._clock.note(answer.headers.get("Date"))
        if 200 <= answer.status < 300:
            return answer
        raise self._refusal(answer, method, url, secrets)

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

        The endpoint's headers go with it. The key does only where the endpoint is the server's own proxy, because
        everything else is in the hands of what runs in the sandbox.

        Raises:
            ConfigError: the endpoint is no URL, or sets headers that are HTTP's own.
            ApiError: an answer that is not 2xx.
            TransportError: no answer.
        """
        if isinstance(endpoint, str):
            endpoint = Endpoint(checked_url(endpoint))
        if own := [name for name in endpoint.headers if is_of_http(name)]:
            raise ConfigError("headers", "leave HTTP's own alone", own)
        return self.request(
            method,
            type(endpoint.url)(f"{endpoint.url.removesuffix('/')}{path}"),
            params=params,
            json=json,
            body=body,
            headers={**endpoint.headers, **(headers or {})},
            timeout=timeout,
            with_key=is_own_proxy(endpoint.url, self.root),
            secrets=endpoint.secrets,
        )

    def server_time(self) -> float:
        """Return the server's clock, as its last answer showed it; seconds since 1970."""
        return self._clock.now()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"<Transport {self.root}>"

    def __reduce__(self) -> Any:
        raise TypeError("a transport holds connections and a key: make another one where it is needed")

    def _exchange(self, request: requests.Request, timeouts: RequestTimeout, secrets: Sequence[str]) -> Response:
        def as_error(error: Exception, silence_seconds: float = timeouts[1]) -> TransportError:
            reason, timed_out = explain(error, (timeouts[0], silence_seconds))
            said, url = (self._redact(text, secrets) for text in (reason, without_secrets(request.url)))
            unsent = is_unsent(error) and not was_sent
            return TransportError(said, method=request.method, url=url, timed_out=timed_out, unsent=unsent)

        was_sent = False
        while True:
            try:
                response = self._send(request, timeouts)
                break
            except FAILURES as exc:
                # A kept connection goes stale, perhaps with the request on it. A second one does no harm.
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
        # Not prepared by the session, which would add credentials from a netrc file.
        return self._http.of_process().send(request.prepare(), **options)

    def _route(self, url: str) -> dict[str, Any]:
        """Return which proxy and which certificates count for a URL; none of the environment's on this machine."""
        if is_loopback(url):
            return {"proxies": {}, "verify": self._verify, "cert": None}
        route = dict(self._http.of_process().merge_environment_settings(url, {}, True, self._verify, None))
        del route["stream"]
        return route

    def _refusal(self, answer: Response, method: str, url: str, secrets: Sequence[str]) -> ApiError:
        body = bytearray()
        with answer, time_limit(self.timeouts.error_body_seconds):
            try:
                while len(body) < MAX_ERROR_BYTES and (piece := answer.read_some()):
                    body += piece
            except TransportError as exc:
                # The status is known, and worth more than the news that its text broke off.
                body += b"" if body else str(exc).encode()

        def redact(text: str) -> str:
            return self._redact(text, secrets)

        headers = {name: redact(answer.headers.get(name) or "") for name in ERROR_HEADERS}
        shown = redact(without_secrets(url))
        return api_error(answer.status, headers, bytes(body), method=method, url=shown, redact=redact)

    def _redact(self, text: str, secrets: Sequence[str]) -> str:
        return self._key.redact(redacted(text, secrets))


class _PathFilter(logging.Filter):
    """Masks secrets in the paths that the HTTP library logs at its debug level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without secrets."""
        if isinstance(record.args, tuple):
            record.args = tuple(without_hidden(value) if isinstance(value, str) else value for value in record.args)
        return True


_path_filter = _PathFilter()


class HTTPSession:
    """Gives each process the requests session that is its own.

    Args:
        trust_env: whether proxies and certificates of the environment count.
    """

    def __init__(self, *, trust_env: bool) -> None:
        logging.getLogger("urllib3.connectionpool").addFilter(_path_filter)
        self._trust_env = trust_env
        self._process = os.getpid()
        self._session = _session(trust_env=trust_env)

    def of_process(self) -> requests.Session:
        """Return it; safe to use from several threads."""
        # On connections that a fork shares with its parent each would read the other's answers.
        if self._process != os.getpid():
            self._session, self._process = _session(trust_env=self._trust_env), os.getpid()
        return self._session

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Session(requests.Session):
    """A session that does not even look where a redirect leads: it would read all of its body first, unpacked."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def _session(*, trust_env: bool) -> requests.Session:
    session = _Session()
    session.trust_env = trust_env
    # A cookie knows no port, so what one sandbox sets on 127.0.0.1 would be sent to all others.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        adapter = HTTPAdapter(pool_connections=_POOL_SIZE, pool_maxsize=_POOL_SIZE)
        adapter.poolmanager.pool_classes_by_scheme = POOLS
        session.mount(scheme, adapter)
    return session


class ServerClock:
    """What time it is where a server is; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = 0.0

    def note(self, date: str | None) -> None:
        """Take in the header ``Date`` of an answer; a date that is none, or far away from any clock, says nothing."""
        moment = read_date(date)
        # Times that are counted from here must stay such that they can be written.
        if moment is not None and 0 <= moment < _LAST_MOMENT:
            with self._lock:
                self._offset = moment - time.time()

    def now(self) -> float:
        """Return the time; seconds since 1970."""
        with self._lock:
            return time.time() + self._offset
