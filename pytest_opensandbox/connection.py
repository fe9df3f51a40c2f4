"""The way to this run's server: opened when a sandbox is first asked for, closed once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_opensandbox.config import Settings, place_of
from pytest_opensandbox.errors import AuthError, OpenSandboxError, ServerStartError
from pytest_opensandbox.keys import masked
from pytest_opensandbox.options import API_KEY_ENV, DOCKER, EMBEDDED, OPTIONS

if TYPE_CHECKING:
    from pytest_opensandbox.client import Client
    from pytest_opensandbox.managed import ManagedServer

_NO_DOCKER = (
    "--opensandbox-url=docker is not available in this version; start opensandbox-server on the Docker engine yourself "
    "and use --opensandbox-url=http://HOST:PORT, or --opensandbox-url=embedded for Linux namespaces on this machine"
)


class Connection:
    """A client for the server that the settings name, and the server itself where it is ours to start.

    Args:
        settings: where the server is.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._server: ManagedServer | None = None
        self._refusal = ""

    @property
    def owns_server(self) -> bool:
        """Whether the server is started by this process and ends with it, its sandboxes included."""
        return self.settings.url in (EMBEDDED, DOCKER)

    @property
    def is_refused(self) -> bool:
        """Whether it has turned out that no sandbox can be had."""
        return bool(self._refusal)

    def client(self) -> Client:
        """Return the client; the first call starts the server where that is ours to do.

        Raises:
            ServerStartError: it does not start, or an earlier call has found that no sandbox can be had.
        """
        with self._lock:
            if self._refusal:
                raise ServerStartError(f"no sandbox can be had in this run, see its first error: {self._refusal}")
            if self._client is None:
                self._client = self._open()
            return self._client

    def refuse(self, error: OpenSandboxError) -> ServerStartError:
        """Note that no sandbox can be had, so that later tests need not wait to find out; return what to raise."""
        self._refusal = str(error).partition("\n")[0]
        return ServerStartError(f"{error}\n{self._advice(error)}")

    def close(self) -> None:
        """Close the client and stop the server that is ours; safe to call again after an interrupt."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            if self._server is not None:
                self._server.stop()
            self._client = self._server = None

    def _open(self) -> Client:
        # Lazy: only a run that asks for a sandbox pays for HTTP.
        from pytest_opensandbox.client import Client

        url, key = self.settings.url, self.settings.api_key
        if self.owns_server:
            self._server = self._start()
            url, key = self._server.url, masked(self._server.api_key)
        return Client(url, key, use_server_proxy=self.settings.server_proxy)

    def _start(self) -> ManagedServer:
        # Lazy, as above.
        from pytest_opensandbox.managed import start_embedded

        try:
            if self.settings.url == DOCKER:
                raise ServerStartError(_NO_DOCKER)
            return start_embedded()
        except ServerStartError as exc:
            self._refusal = str(exc).partition("\n")[0]
            raise

    def _advice(self, error: OpenSandboxError) -> str:
        if self._server is not None:
            state = "is running" if self._server.is_running else "has ended"
            return f"The server of this run {state}; its last words: {self._server.stderr_tail() or 'none'}"
        if isinstance(error, AuthError):
            known = "the key that it holds" if self.settings.api_key else "a key; it is not set"
            return f"The key comes from the environment only: check {API_KEY_ENV} ({known})."
        option = next(option for option in OPTIONS if option.name == "url")
        place = place_of(option, self.settings.sources.get("url", "default"))
        return (
            f"The url {self.settings.url} comes from {place}: is an OpenSandbox server running there? "
            "Without one, use --opensandbox-url=embedded, this machine's own namespaces (Linux), "
            "or --opensandbox-url=docker, a server started here on the local Docker engine."
        )
