"""The request for a sandbox: the arguments of the marker and of the factory, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_opensandbox.client.models import Snapshot
from pytest_opensandbox.client.sandbox_opts import (
    POOL_EXTENSION,
    NetworkPolicy,
    SandboxOpts,
    check_reference,
    check_resources,
)
from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.provisioning.setup import Put, SandboxSetup, Setup, commands_of, targets_of
from pytest_opensandbox.settings.settings import Settings

MARKER = "sandbox"
MARKER_ARGUMENTS = ("image", "env", "resources", "timeout", "network", "pool", "setup", "put")
MARKER_HELP = (
    "sandbox(*, image=None, env=None, resources=None, timeout=None, network=None, pool=None, setup=None, put=None): "
    "what the 'sandbox' fixture makes for this test: an image reference; a mapping of environment variables; limits "
    "such as {'cpu': '1', 'memory': '1Gi'}; seconds that a command may take; 'none' or the host names that it may "
    "reach; the pool that it is taken from; a shell command, or a list of them with a shell for each, that runs once "
    "per run and is then restored from a snapshot for each test; a mapping of paths below the rootdir to absolute "
    "paths in the sandbox, which are there before the setup runs. The nearest marker that names an argument wins, and "
    "over all of them parametrize('sandbox', [an image or a mapping of these arguments, ...], indirect=True)."
)

_DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest:
    """A request to which the options of the run have been applied."""

    opts: SandboxOpts
    """What the server is asked for."""
    setup: SandboxSetup
    """What is done in the sandbox before the test gets it."""
    command_timeout: float
    """Time limit of a command that names none; seconds."""


@dataclass(frozen=True, kw_only=True)
class SandboxRequest:
    """The request for one sandbox; None leaves a value to the options.

    Raises:
        ConfigError: a value breaks a rule; names the argument.
    """

    image: str | None = None
    """Image reference."""
    env: Mapping[str, str] | None = None
    """Environment of every command in it."""
    resources: Mapping[str, str] | None = None
    """Limits such as ``{"cpu": "1", "memory": "1Gi"}``."""
    timeout: float | None = None
    """Time limit of a command that names none; seconds."""
    network: object = None
    """``"none"`` or False for no network, host names, or a ``NetworkPolicy``; None for what the server allows."""
    snapshot: str | Snapshot | None = None
    """A snapshot to restore, or its id, instead of an image."""
    pool: str | None = None
    """Pool that it is taken from, which leaves image, limits and network to the pool; "" for none."""
    setup: Setup | None = None
    """Command, or several, that prepare it; "" for none."""
    put: Put | None = None
    """Paths on this machine, relative to the rootdir, and paths in the sandbox; an empty mapping for none."""

    def __post_init__(self) -> None:
        _check_timeout(self.timeout)
        _policy(self.network)
        _check_source(self.image, self.snapshot)
        check_resources({} if self.resources is None else self.resources, field="resources")
        commands_of("" if self.setup is None else self.setup)
        targets_of({} if self.put is None else self.put)
        if self.pool is not None:
            _check_pool(self.pool)
            if self.pool and self._is_particular:
                raise ConfigError("pool", "stand without image, snapshot, resources and network", self.pool)

    def resolve(self, settings: Settings, *, root: Path) -> ResolvedRequest:
        """Return the request with the options of the run where it leaves a value open.

        Args:
            settings: the options.
            root: what relative paths are relative to.

        Raises:
            ConfigError: a value breaks a rule of the server.
        """
        return ResolvedRequest(
            opts=self.opts(settings),
            setup=self.sandbox_setup(settings, root=root),
            command_timeout=settings.command_timeout_seconds if self.timeout is None else float(self.timeout),
        )

    def opts(self, settings: Settings) -> SandboxOpts:
        """Return the options of the create, with those of the run where the request has none.

        Raises:
            ConfigError: a value breaks a rule of the server.
        """
        pool = settings.pool if self.pool is None and not self._is_particular else self.pool
        env = {} if self.env is None else self.env
        if pool:
            # The pool's own template decides the image and the limits of its sandboxes.
            extensions = {POOL_EXTENSION: pool}
            return SandboxOpts(env=env, resource_limits={}, timeout=settings.lease_seconds, extensions=extensions)
        image = settings.image if self.image is None and self.snapshot is None else self.image
        return SandboxOpts(
            image=image,
            snapshot_id=self.snapshot.id if isinstance(self.snapshot, Snapshot) else self.snapshot,
            env=env,
            resource_limits=settings.resources if self.resources is None else self.resources,
            network_policy=_policy(self.network),
            timeout=settings.lease_seconds,
        )

    def sandbox_setup(self, settings: Settings, *, root: Path) -> SandboxSetup:
        """Return what is done in the sandbox before the test gets it; the options apply to images, not to snapshots.

        Args:
            settings: the options.
            root: what relative paths are relative to.
        """
        has_options = self.snapshot is None
        commands = settings.setup if has_options else ()
        put = settings.put if has_options else {}
        targets = put if self.put is None else targets_of(self.put)
        return SandboxSetup(
            commands=commands if self.setup is None else commands_of(self.setup),
            files=tuple((root / Path(source).expanduser(), target) for source, target in targets.items()),
            timeout=settings.setup_timeout_seconds,
            put_name="put" if self.put is not None else settings.place_of("put"),
        )

    @property
    def _is_particular(self) -> bool:
        """Whether it asks for what a sandbox from a pool cannot have."""
        return any(asked is not None for asked in (self.image, self.snapshot, self.resources, self.network))


def read_markers(marks: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> SandboxRequest:
    """Read a test's markers; for each argument the nearest marker that names it wins.

    Args:
        marks: positional and keyword arguments of each marker, nearest first.

    Raises:
        ConfigError: a positional or unknown argument, or a value that breaks a rule.
    """
    nearest: dict[str, Any] = {}
    known = ", ".join(MARKER_ARGUMENTS)
    for positional, named in marks:
        if positional:
            raise ConfigError(f"@pytest.mark.{MARKER}", f"be given by name ({known})", positional[0])
        for name, value in named.items():
            if name not in MARKER_ARGUMENTS:
                raise ConfigError(f"an argument of @pytest.mark.{MARKER}", f"be one of {known}", name)
            nearest.setdefault(name, value)
    return SandboxRequest(**nearest)


def read_parameter(value: object) -> Mapping[str, Any]:
    """Read what ``parametrize("sandbox", ..., indirect=True)`` gives a test, as arguments of the marker.

    Args:
        value: an image reference, or a mapping of the marker's arguments.

    Raises:
        ConfigError: neither, or a key that is no argument of the marker.
    """
    if isinstance(value, str):
        return {"image": value}
    field, known = f"the parameter of {MARKER!r}", ", ".join(MARKER_ARGUMENTS)
    if not isinstance(value, Mapping):
        raise ConfigError(field, f"be an image, or a mapping of the marker's arguments ({known})", value)
    for name in value:
        if name not in MARKER_ARGUMENTS:
            raise ConfigError(f"a key in {field}", f"be one of {known}", name)
    return value


def _check_timeout(timeout: object) -> None:
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout <= _DAY_SECONDS):  # type: ignore[operator]  # number says so
        raise ConfigError("timeout", "be seconds, more than 0 and at most 86400", timeout)


def _check_source(image: object, snapshot: object) -> None:
    if image is not None and snapshot is not None:
        raise ConfigError("snapshot", "be given without an image, which is the snapshot's own, but not both", snapshot)
    if snapshot is not None and not isinstance(snapshot, Snapshot):
        check_reference(snapshot, field="snapshot")


def _check_pool(pool: object) -> None:
    if not isinstance(pool, str) or re.search(r"\s", pool):
        raise ConfigError("pool", "be the name of a pool, without white space", pool)


def _policy(network: object) -> NetworkPolicy | None:
    if network is None or isinstance(network, NetworkPolicy):
        return network
    if network is False or network == "none":
        return NetworkPolicy()
    if isinstance(network, (list, tuple, set, frozenset)) and all(isinstance(host, str) and host for host in network):
        return NetworkPolicy.only(*network)
    raise ConfigError("network", "be 'none', a list of host names or a NetworkPolicy", network)
