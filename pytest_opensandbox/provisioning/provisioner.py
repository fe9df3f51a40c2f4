"""The provisioner: gives a sandbox for a request, and takes it back."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import ApiError, OpenSandboxError, TransportError
from pytest_opensandbox.provisioning.refused_images import RefusedImages, is_about_image
from pytest_opensandbox.provisioning.sandbox_request import ResolvedRequest
from pytest_opensandbox.provisioning.setup_cache import SetupCache
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.sandbox import Sandbox
from pytest_opensandbox.sandbox.tracking import RunTags, SetupTally, Tally
from pytest_opensandbox.settings.settings import Settings


class Server(Protocol):
    """The server of a run, as far as the creation of a sandbox concerns it."""

    @property
    def scope(self) -> str:
        """Who shares the snapshots on it: "" for the whole run, else a name that no other server of the run has."""

    def client(self) -> Client:
        """Return the client; a server that ended by itself is started again.

        Raises:
            ServerStartError: no sandbox can be created in this run.
        """

    def explain(self, error: ApiError | TransportError, *, is_first: bool, is_final: bool) -> OpenSandboxError:
        """Return the error to raise for a create that failed.

        Args:
            error: how it failed.
            is_first: whether the run has had no sandbox so far.
            is_final: whether no other create can succeed.
        """


class Provisioner:
    """Gives sandboxes to one process of a run and takes them back; knows which of them are open.

    Args:
        server: where the sandboxes are created.
        tags: labels of the run.
        settings: lease and time limits.
        store: where the processes of the run share the outcomes of setups.
        notify: shows the user a line while a long wait lasts.
    """

    def __init__(
        self,
        server: Server,
        *,
        tags: RunTags,
        settings: Settings,
        store: SharedStore,
        notify: Callable[[str], None],
    ) -> None:
        self._server = server
        self._lifecycle = Lifecycle(
            server.client(),
            tags=tags,
            lease_seconds=settings.lease_seconds,
            ready_timeout=settings.ready_timeout_seconds,
            notify=notify,
        )
        self._refused_images = RefusedImages()
        self._setups = SetupCache(store, progress=self._lifecycle.progress, discard=self.release)
        # By process, too: a fork has its parent's sandboxes on its list, but they are not its own.
        self._open: dict[tuple[int, str], Sandbox] = {}

    @property
    def client(self) -> Client:
        """The client that the sandboxes live on."""
        return self._lifecycle.client

    @property
    def open(self) -> list[Sandbox]:
        """The sandboxes of this process that were not taken back yet, oldest first."""
        return [sandbox for (process, _), sandbox in list(self._open.items()) if process == os.getpid()]

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Tags of the creates that may yet make a sandbox, because their response was lost."""
        return self._lifecycle.ledger.unanswered

    @property
    def tally(self) -> Tally:
        """What became of the sandboxes so far."""
        ledger = self._lifecycle.ledger
        created, left = ledger.created, ledger.left
        setups = self._setups.tally + SetupTally(has_snapshots=ledger.has_snapshots)
        return Tally(created=len(created), deleted=len(created) - len(left), left=left, setups=setups)

    def acquire(self, request: ResolvedRequest, *, test: str = "") -> Sandbox:
        """Return a sandbox that is ready, with the setup done.

        Args:
            request: what to create, and what is done in it.
            test: name of the test that asks, kept as a label.

        Raises:
            ServerStartError: no sandbox can be created in this run.
            ConfigError: a file of the setup cannot be read.
            OpenSandboxError: the server refuses, the sandbox does not become ready, or the setup fails.
        """
        launch = partial(self._launch, command_timeout=request.command_timeout, test=test)
        if not request.setup:
            return launch(request.opts)
        return self._setups.acquire(request.opts, request.setup, launch, scope=self._server.scope)

    def release(self, sandbox: Sandbox) -> bool:
        """Delete a sandbox and take it off the list; one that cannot be deleted now is left to the sweep.

        Returns:
            Whether it was on the list; False for a second call, and in a fork for a sandbox of the parent.
        """
        # No test fails for it: the record still has the sandbox, so that the sweep tries again.
        with suppress(OpenSandboxError):
            sandbox.close()
        return self._open.pop((os.getpid(), sandbox.id), None) is not None

    def write_off(self) -> None:
        """Note that every sandbox has ended, because its server has."""
        self._lifecycle.ledger.write_off()

    def close(self) -> None:
        """Stop renewing leases; deletes nothing."""
        self._lifecycle.close()

    def _launch(self, opts: SandboxOpts, *, command_timeout: float, test: str, image: str = "") -> Sandbox:
        # A server that ended by itself is started again here, before anything is asked of it.
        self._server.client()
        self._refused_images.check(opts)
        try:
            ready = self._lifecycle.launch(opts, test=test)
        except (ApiError, TransportError) as exc:
            # Without the image of the agent there is no sandbox at all.
            is_final = is_about_image(exc) and not self._refused_images.note(opts, exc)
            error = self._server.explain(exc, is_first=not self._lifecycle.ledger.created, is_final=is_final)
            if error is exc:
                raise
            raise error from exc
        ready = replace(ready, image=image or ready.image)
        sandbox = Sandbox(self._lifecycle, ready, command_timeout=command_timeout)
        self._open[os.getpid(), sandbox.id] = sandbox
        return sandbox
