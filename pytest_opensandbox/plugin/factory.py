"""What makes the sandboxes that a test asks for by a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandbox_opts import NetworkPolicy
from pytest_opensandbox.plugin.run import Run
from pytest_opensandbox.provisioning.sandbox_request import SandboxRequest
from pytest_opensandbox.provisioning.setup import Put, Setup

if TYPE_CHECKING:
    from pytest_opensandbox.sandbox.sandbox import Sandbox


class SandboxFactory:
    """Makes sandboxes; call it, and use the result as a context manager or leave its end to pytest."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(
        self,
        image: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
        timeout: float | None = None,
        network: NetworkPolicy | Sequence[str] | str | bool | None = None,
        snapshot: Snapshot | str | None = None,
        pool: str | None = None,
        setup: Setup | None = None,
        put: Put | None = None,
    ) -> Sandbox:
        """Create a sandbox and return it once commands can run in it.

        Args:
            image: image reference; default ``--opensandbox-image``.
            env: environment of everything that runs in it.
            resources: limits such as ``{"cpu": "1", "memory": "1Gi"}``; default ``--opensandbox-resources``.
            timeout: seconds that a command may take; default ``--opensandbox-command-timeout``.
            network: "none" or False for no network, host names for those only; None for what the server allows.
            snapshot: a snapshot to restore, or its id, instead of an image.
            pool: pool that it is taken from, "" for none; default ``--opensandbox-pool`` where nothing else is asked.
            setup: shell command, or several, run once per run, image and files; the sandbox is restored from their
                snapshot; "" for none. Default ``--opensandbox-setup``, for a snapshot none.
            put: paths on this machine, relative to the rootdir, and absolute paths in the sandbox, where they lie
                before the setup runs; {} for none. Default ``--opensandbox-put``, for a snapshot none.

        Raises:
            ConfigError: an argument breaks a rule.
            ServerStartError: no server can be had.
            ApiError: the server refuses.
            SandboxFailedError: it ended before it was ready.
            ReadyTimeoutError: it was not ready in time.
            SetupError: the setup did not exit with 0, now or before in this run.
            SnapshotFailedError: what the setup made could not be kept.
            TransportError: the server does not answer.
        """
        recipe = SandboxRequest(
            image=image,
            env=env,
            resources=resources,
            timeout=timeout,
            network=network,
            snapshot=snapshot,
            pool=pool,
            setup=setup,
            put=put,
        )
        return self._run.make(recipe)
