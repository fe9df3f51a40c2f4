"""What makes the sandboxes that a test asks for by a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_opensandbox.opts import NetworkPolicy
from pytest_opensandbox.recipe import Recipe
from pytest_opensandbox.session import Run

if TYPE_CHECKING:
    from pytest_opensandbox.sandbox import Sandbox


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
        snapshot: str | None = None,
        pool: str | None = None,
    ) -> Sandbox:
        """Create a sandbox and return it once commands can run in it.

        Args:
            image: image reference; default ``--opensandbox-image``.
            env: environment of everything that runs in it.
            resources: limits such as ``{"cpu": "1", "memory": "1Gi"}``; default ``--opensandbox-resources``.
            timeout: seconds that a command may take; default ``--opensandbox-command-timeout``.
            network: "none" or False for no network, host names for those only; None for what the server allows.
            snapshot: id of a snapshot to restore, instead of an image.
            pool: pool that it is taken from, "" for none; default ``--opensandbox-pool`` where nothing else is asked.

        Raises:
            ConfigError: an argument breaks a rule.
            ServerStartError: no server can be had.
            ApiError: the server refuses.
            SandboxFailedError: it ended before it was ready.
            ReadyTimeoutError: it was not ready in time.
            TransportError: the server does not answer.
        """
        recipe = Recipe(
            image=image, env=env, resources=resources, timeout=timeout, network=network, snapshot=snapshot, pool=pool
        )
        return self._run.make(recipe)
