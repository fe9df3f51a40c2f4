"""The server of a run: started or reached when a test first asks for a sandbox, and stopped at the end."""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import (
    ApiError,
    AuthError,
    OpenSandboxError,
    OpenSandboxWarning,
    ServerStartError,
    TransportError,
)
from pytest_opensandbox.provisioning.refused_images import image_advice, is_about_image
from pytest_opensandbox.settings.options import API_KEY_ENV, DOCKER, EMBEDDED
from pytest_opensandbox.settings.settings import Settings
from pytest_opensandbox.transport.api_key import MaskedKey, masked

if TYPE_CHECKING:
    from pytest_opensandbox.client.client import Client
    from pytest_opensandbox.servers.server_process import ServerProcess

_FILE = "file"
_NO_ROUTE_STATUSES = frozenset({404, 405, 501})
_REFUSAL = "refusal"

DYING_SECONDS = 1.0
"""How long a server that no longer responds may take to be seen to have ended."""
LEFT_STATUS = 3
"""What the embedded server exits with where a sandbox did not end."""

_MEMORY = (
    "The kernel kills in this way where memory runs out: give the machine more of it, run fewer workers, or have the"
    " sandboxes write less to /tmp and /dev/shm."
)


@dataclass(frozen=True)
class ServerFailure:
    """One embedded server that ended while its run went on."""

    noticed: float
    """``clock.monotonic()`` when it was noticed: each sandbox that was created earlier has ended with it."""
    ending: str
    """How it ended, such as ``was killed by SIGKILL``."""
    stderr_tail: str
    """The end of its standard error, or ""."""

    @property
    def section(self) -> str:
        """The section in the report of a test that used the server."""
        lines = [
            f"The embedded server of this test {self.ending}, and its sandboxes ended with it.",
            "The next test that needs a sandbox gets a new server.",
            f"The end of its standard error: {self.stderr_tail or 'nothing'}",
        ]
        return "\n".join(lines + ([_MEMORY] if "SIGKILL" in self.ending else []))

    def line(self, *, worker_id: str, nodeid: str) -> str:
        """Return one line for the summary of the run.

        Args:
            worker_id: the worker whose server it was; ``main`` for none.
            nodeid: the test that was running, "" for none.
        """
        whose = "the embedded server" if worker_id == "main" else f"the embedded server of {worker_id}"
        where = f" in {nodeid}" if nodeid else ""
        return f"{whose} {self.ending}{where}; what needed a sandbox later got a new one"


class RunServer:
    """A client for the server that the settings name, and the server itself where it is ours to start.

    Args:
        settings: where the server is.
        run_id: the run, for what is left when a server of ours stops.
        worker_id: ``main`` or the xdist worker's name.
        server: what the controller's ``for_workers`` returned, in one of its workers; empty elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run_id: str = "",
        worker_id: str = "main",
        server: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.refusal_of_workers = ""
        """Why no worker can have a sandbox, with what to do about it; or ""."""
        self._run_id = run_id
        self._worker_id = worker_id
        self._process = os.getpid()
        self._shared = server or {}
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._server: ServerProcess | None = None
        self.failures: list[ServerFailure] = []
        """The embedded servers that ended by themselves, in order."""
        self.left_sandboxes = False
        """Whether our server reported, by its exit status, that a sandbox did not end."""
        self._refusal = self._shared.get(_REFUSAL, "")

    @property
    def owns_server(self) -> bool:
        """Whether each process has a server of its own, which takes its sandboxes along when it ends."""
        return self.settings.url == EMBEDDED

    @property
    def is_down(self) -> bool:
        """Whether the embedded server has ended by itself, and no other has been needed since."""
        return self.owns_server and self._client is not None and self._server is None

    @property
    def is_refused(self) -> bool:
        """Whether no sandbox can be created in this run."""
        return bool(self._refusal)

    @property
    def scope(self) -> str:
        """Who shares the snapshots on it: "" for the whole run, else a name that no other server of the run has."""
        return f"{self._worker_id}-{len(self.failures)}" if self.owns_server else ""

    def client(self) -> Client:
        """Return the client; the first call starts the server where that is ours to do.

        Raises:
            ServerStartError: it does not start, or an earlier call has found that no sandbox can be created.
        """
        with self._lock:
            if self._refusal:
                place = "the summary" if self._shared else "its first error"
                raise ServerStartError(f"no sandbox can be created in this run, see {place}: {self._refusal}")
            if self._client is None:
                self._client = self._open()
            elif self.is_down:
                self._replace(self._client)
            return self._client

    def find_failure(self, *, within: float = 0.0) -> ServerFailure | None:
        """Return how the embedded server has ended by itself, once; the next call of ``client`` starts another.

        Args:
            within: how long to wait for its end, where there is reason to believe in it; seconds.
        """
        with self._lock:
            server = self._server
            if server is None or self._is_fork or not self.owns_server or not server.ends(within=within):
                return None
            failure = ServerFailure(monotonic(), ending(server.status), server.stderr_tail())
            self.failures.append(failure)
            server.stop()
            self._server = None
            return failure

    def replace_ended(self) -> list[str]:
        """Start the server on the Docker engine again where it has ended by itself: nothing else ends what it left.

        Returns:
            A line for the summary; none where it has not ended, or was not this process's to start.
        """
        with self._lock:
            server, client = self._server, self._client
            if self._is_fork or self.owns_server or server is None or client is None or server.is_running:
                return []
            server.stop()
            self._server = None
            with suppress(ServerStartError):
                self._replace(client)
            return [f"the server on the Docker engine {ending(server.status)}; what needed it later got a new one"]

    def for_workers(self) -> dict[str, str]:
        """Start the server that the whole run shares, and return what a worker needs to use it.

        Returns:
            Under ``file`` the path of the file that holds url and key, because no message between processes may hold
            the key; or under ``refusal`` why there is no server. Empty where each process has its own server.
        """
        if self.settings.url != DOCKER:
            return {}
        try:
            self.client()
        except ServerStartError as exc:
            self.refusal_of_workers = self.refusal_of_workers or str(exc)
        return {_FILE: self._server.file} if self._server else {_REFUSAL: self._refusal}

    def refuse(self, error: OpenSandboxError) -> ServerStartError:
        """Note that no sandbox can be created, so that later tests need not wait to find out; return the error."""
        self._refusal = _first_line(error)
        return ServerStartError(f"{error}\n{self._advice(error)}")

    def explain(self, error: ApiError | TransportError, *, is_first: bool, is_final: bool) -> OpenSandboxError:
        """Return the error to raise for a create that failed, and note what later tests need not try again.

        Args:
            error: how it failed.
            is_first: whether the run has had no sandbox so far.
            is_final: whether no other create can succeed.

        Returns:
            A ``ServerStartError`` where no sandbox can be created at all, else the error itself.
        """
        if isinstance(error, (AuthError, TransportError)):
            self.find_failure(within=DYING_SECONDS)
            return self.refuse(error) if is_first and not self.is_down else error
        return self.refuse(error) if is_final or (is_first and has_no_route(error)) else error

    def close(self) -> None:
        """Close the client and stop the server that is ours; safe to call again after an interrupt."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            if self._server is not None:
                self._server.stop()
                self.left_sandboxes = self._server.status == LEFT_STATUS
            self._client = self._server = None

    @property
    def _is_fork(self) -> bool:
        return os.getpid() != self._process

    def _open(self) -> Client:
        # Lazy: only a run that asks for a sandbox pays for HTTP.
        from pytest_opensandbox.client.client import Client

        url, key = self.settings.url, self.settings.api_key
        if self._shared:
            url, key = _read_server_file(Path(self._shared[_FILE]))
        elif url in (EMBEDDED, DOCKER):
            self._server = self._start()
            url, key = self._server.url, masked(self._server.api_key)
            if self.settings.url == EMBEDDED:
                _warn_of_limits(self._server.stderr_tail())
        client = Client(
            url,
            key,
            use_server_proxy=self.settings.server_proxy,
            ca_bundle=self.settings.ca_bundle or None,
            watched=bool(self._server or self._shared),
        )
        if self._server is None and not self._shared:
            self._check(client)
        return client

    def _replace(self, client: Client) -> None:
        """Start another server for a client that tests hold already."""
        self._server = self._start()
        client.replace_server(self._server.url, masked(self._server.api_key))

    def _check(self, client: Client) -> None:
        """Find out at once whether a server responds: a create, which may pull an image, is given minutes."""
        try:
            client.check_alive()
        except TransportError as exc:
            client.close()
            raise self.refuse(exc) from exc

    def _start(self) -> ServerProcess:
        # Lazy, as above.
        from pytest_opensandbox.sandbox.tracking import TAG_RUN
        from pytest_opensandbox.servers.server_process import start_docker, start_embedded

        try:
            if self.settings.url == EMBEDDED:
                return start_embedded(choice=self._choice())
            return start_docker(
                label=f"{TAG_RUN}={self._run_id}",
                execd_image=self.settings.execd_image,
                egress_image=self.settings.egress_image,
                choice=self._choice(),
            )
        except ServerStartError as exc:
            self._refusal = _first_line(exc)
            raise

    def _choice(self) -> str:
        """Return how the user asked for a server of this run's own."""
        place, url = self.settings.place_of("url"), self.settings.url
        return f"{url}, which stands where no url is given," if place == "default" else f"{place}={url}"

    def _advice(self, error: OpenSandboxError) -> str:
        if isinstance(error, ApiError) and is_about_image(error):
            return image_advice(error)
        if self._server is not None:
            state = "is running" if self._server.is_running else "has ended"
            tail = self._server.stderr_tail() or "nothing"
            return f"The server of this run {state}; the end of its standard error: {tail}"
        if isinstance(error, AuthError):
            known = "the key that it holds is none of this server's" if self.settings.api_key else "it is not set"
            return f"The key comes from the environment only: check {API_KEY_ENV} ({known})."
        if self._shared:
            return "It was started for this run by the controller of its workers, and seems to have ended."
        place = self.settings.place_of("url")
        if isinstance(error, ApiError) and has_no_route(error):
            return (
                f"The url {self.settings.url} comes from {place}, and no OpenSandbox server is there: write"
                " http(s)://HOST[:PORT], and a path behind it only where a gateway has the server below that path."
            )
        return (
            f"The url {self.settings.url} comes from {place}: is an OpenSandbox server running there? "
            "Without one, use --opensandbox-url=embedded, this machine's own namespaces (Linux), "
            "or --opensandbox-url=docker, a server started here on the local Docker engine."
        )


def ending(status: int | None) -> str:
    """Return how a process with an exit status ended, such as ``was killed by SIGKILL``."""
    if status is None or status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def has_no_route(error: ApiError) -> bool:
    """Say whether a refusal came from another program than an OpenSandbox server, or from a wrong path."""
    return error.status in _NO_ROUTE_STATUSES and not error.code


def _read_server_file(path: Path) -> tuple[str, MaskedKey]:
    """Return the url and the key from the file that the controller's server wrote for its workers."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return body["url"], masked(body["api_key"])
    except (OSError, ValueError, KeyError) as error:
        raise ServerStartError(f"the server that this run's controller started has gone: {error}") from None


def _warn_of_limits(notes: str) -> None:
    """Warn about what the embedded server cannot do on this machine; the run goes on, also with -W error."""
    if notes.strip():
        with suppress(OpenSandboxWarning):
            warnings.warn(OpenSandboxWarning(f"the embedded server says: {notes.strip()}"), stacklevel=2)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
