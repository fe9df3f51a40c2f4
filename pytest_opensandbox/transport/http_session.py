"""The kept connections of one process: what a server sets is not kept with them, and no fork uses them."""

from __future__ import annotations

import logging
import os
from http.cookiejar import DefaultCookiePolicy

import requests
from requests.adapters import HTTPAdapter

from pytest_opensandbox.text import without_hidden
from pytest_opensandbox.transport.sockets import POOLS

_POOL_SIZE = 64


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
