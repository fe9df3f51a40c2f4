"""A fresh, isolated OpenSandbox sandbox for each test that asks for one, gone afterwards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_opensandbox.client.client import Client as Client
    from pytest_opensandbox.client.command_result import BackgroundCommand as BackgroundCommand
    from pytest_opensandbox.client.command_result import CommandResult as CommandResult
    from pytest_opensandbox.client.models import EXECD_PORT as EXECD_PORT
    from pytest_opensandbox.client.models import FileInfo as FileInfo
    from pytest_opensandbox.client.models import FileUpload as FileUpload
    from pytest_opensandbox.client.models import SandboxResponse as SandboxResponse
    from pytest_opensandbox.client.models import Snapshot as Snapshot
    from pytest_opensandbox.client.sandbox_opts import EgressRule as EgressRule
    from pytest_opensandbox.client.sandbox_opts import NetworkPolicy as NetworkPolicy
    from pytest_opensandbox.client.sandbox_opts import SandboxOpts as SandboxOpts
    from pytest_opensandbox.client.sandbox_opts import label_value as label_value
    from pytest_opensandbox.errors import ApiError as ApiError
    from pytest_opensandbox.errors import AuthError as AuthError
    from pytest_opensandbox.errors import CommandError as CommandError
    from pytest_opensandbox.errors import CommandLostError as CommandLostError
    from pytest_opensandbox.errors import CommandStartError as CommandStartError
    from pytest_opensandbox.errors import CommandTimeoutError as CommandTimeoutError
    from pytest_opensandbox.errors import ConfigError as ConfigError
    from pytest_opensandbox.errors import ConflictError as ConflictError
    from pytest_opensandbox.errors import FileTooLargeError as FileTooLargeError
    from pytest_opensandbox.errors import LeakWarning as LeakWarning
    from pytest_opensandbox.errors import NotFoundError as NotFoundError
    from pytest_opensandbox.errors import OpenSandboxError as OpenSandboxError
    from pytest_opensandbox.errors import OpenSandboxWarning as OpenSandboxWarning
    from pytest_opensandbox.errors import PauseError as PauseError
    from pytest_opensandbox.errors import ProtocolError as ProtocolError
    from pytest_opensandbox.errors import ReadyTimeoutError as ReadyTimeoutError
    from pytest_opensandbox.errors import SandboxClosedError as SandboxClosedError
    from pytest_opensandbox.errors import SandboxError as SandboxError
    from pytest_opensandbox.errors import SandboxFailedError as SandboxFailedError
    from pytest_opensandbox.errors import SandboxGoneError as SandboxGoneError
    from pytest_opensandbox.errors import ServerStartError as ServerStartError
    from pytest_opensandbox.errors import ServiceTimeoutError as ServiceTimeoutError
    from pytest_opensandbox.errors import SetupError as SetupError
    from pytest_opensandbox.errors import SharedAgentError as SharedAgentError
    from pytest_opensandbox.errors import SkippedFileWarning as SkippedFileWarning
    from pytest_opensandbox.errors import SlowSandboxWarning as SlowSandboxWarning
    from pytest_opensandbox.errors import SnapshotFailedError as SnapshotFailedError
    from pytest_opensandbox.errors import SweepError as SweepError
    from pytest_opensandbox.errors import TransportError as TransportError
    from pytest_opensandbox.errors import UnsafeArchiveError as UnsafeArchiveError
    from pytest_opensandbox.plugin.fixtures import SandboxFactory as SandboxFactory
    from pytest_opensandbox.sandbox.process import Process as Process
    from pytest_opensandbox.sandbox.sandbox import Sandbox as Sandbox
    from pytest_opensandbox.settings.settings import Settings as Settings
    from pytest_opensandbox.transport.endpoints import Endpoint as Endpoint

_MODULES = {
    "client.client": ("Client",),
    "settings.settings": ("Settings",),
    "errors": (
        "ApiError",
        "AuthError",
        "CommandError",
        "CommandLostError",
        "CommandStartError",
        "CommandTimeoutError",
        "ConfigError",
        "ConflictError",
        "FileTooLargeError",
        "LeakWarning",
        "NotFoundError",
        "OpenSandboxError",
        "OpenSandboxWarning",
        "PauseError",
        "ProtocolError",
        "ReadyTimeoutError",
        "SandboxClosedError",
        "SandboxError",
        "SandboxFailedError",
        "SandboxGoneError",
        "ServerStartError",
        "ServiceTimeoutError",
        "SetupError",
        "SharedAgentError",
        "SkippedFileWarning",
        "SlowSandboxWarning",
        "SnapshotFailedError",
        "SweepError",
        "TransportError",
        "UnsafeArchiveError",
    ),
    "plugin.fixtures": ("SandboxFactory",),
    "client.models": ("EXECD_PORT", "FileInfo", "FileUpload", "SandboxResponse", "Snapshot"),
    "client.sandbox_opts": ("EgressRule", "NetworkPolicy", "SandboxOpts", "label_value"),
    "client.command_result": ("BackgroundCommand", "CommandResult"),
    "sandbox.process": ("Process",),
    "sandbox.sandbox": ("Sandbox",),
    "transport.endpoints": ("Endpoint",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


if not TYPE_CHECKING:
    # A type checker that saw __getattr__ would accept every name, also a misspelt one.
    def __getattr__(name: str) -> Any:
        # Lazy: pytest imports this package in every run, also where no test asks for a sandbox.
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
