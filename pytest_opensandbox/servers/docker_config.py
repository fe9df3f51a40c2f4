"""The configuration and files of opensandbox-server for one run, and the errors of its start."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

EXTRA = "pip install 'opensandbox-server>=1.1.1'"
"""Installs what the extra ``docker`` does."""
LOOPBACK = "127.0.0.1"

_LIBRARIES = ("opensandbox_server", "docker")


class DockerStartError(Exception):
    """The server cannot run here.

    Attributes:
        cause: what to do about it, as a phrase without a full stop.
    """

    def __init__(self, message: str, cause: str) -> None:
        self.cause = cause
        super().__init__(message)


@dataclass(frozen=True)
class ServerFiles:
    """The files of one server, in a directory that only this user can enter."""

    directory: Path
    """The directory; also the server's HOME."""

    @property
    def config(self) -> Path:
        """The server's configuration, with its key."""
        return self.directory / "server.toml"

    @property
    def store(self) -> Path:
        """The server's database."""
        return self.directory / "server.db"

    @property
    def log(self) -> Path:
        """The server's log of its steps on the engine, and its standard error."""
        return self.directory / "server.log"

    @property
    def requests(self) -> Path:
        """The log of requests, a line each."""
        return self.directory / "requests.log"

    @property
    def handover(self) -> Path:
        """Url and key as JSON, for other processes of the run."""
        return self.directory / "server.json"

    def write(self, path: Path, text: str) -> None:
        """Write a file that only this user can read."""
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")


def check_libraries() -> None:
    """Check that the libraries of the extra are installed, without importing them.

    Raises:
        DockerStartError: one is missing.
    """
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise DockerStartError(f"it needs {' and '.join(missing)}, not installed for {sys.executable}", EXTRA)


def example_images() -> tuple[str, str]:
    """Return the execd and the egress image that the installed server's own example for Docker names.

    Raises:
        DockerStartError: it has no such example.
    """
    try:
        example = importlib.resources.files("opensandbox_server.examples") / "example.config.toml"
        # Python 3.10 has no TOML reader of its own; there the server depends on one.
        reader = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        tables = reader.loads(example.read_text(encoding="utf-8"))
        return str(tables["runtime"]["execd_image"]), str(tables["egress"]["image"])
    except (OSError, ImportError, ValueError, KeyError, TypeError) as error:
        remedy = "set --opensandbox-execd-image and --opensandbox-egress-image"
        raise DockerStartError(
            f"the installed opensandbox-server names no images of its own ({error})", remedy
        ) from None


def config_text(files: ServerFiles, *, port: int, api_key: str, execd_image: str, egress_image: str) -> str:
    """Return the server's configuration file: containers on Docker's bridge, everything on loopback only.

    Args:
        files: where its store goes.
        port: the port to listen on.
        api_key: the key to require.
        execd_image: image of the agent.
        egress_image: image of the egress sidecar.

    Source: opensandbox_server.config 1.1.1; network_mode would be host, publish_host 0.0.0.0.
    """
    # Files, because on standard output the lines have colours. Which level it is matters to docker_engine.
    log = {"level": "INFO", "file_enabled": True, "file_path": str(files.log), "access_file_path": str(files.requests)}
    tables: dict[str, dict[str, object]] = {
        "server": {"host": LOOPBACK, "port": port, "api_key": api_key},
        "runtime": {"type": "docker", "execd_image": execd_image},
        "docker": {"network_mode": "bridge", "publish_host": LOOPBACK},
        "egress": {"image": egress_image},
        "store": {"type": "sqlite", "path": str(files.store)},
        "log": log,
    }
    # A JSON string or number is a TOML one, too.
    texts = (
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())])
        for name, table in tables.items()
    )
    return "\n".join(texts) + "\n"


def engine_error(host: str, error: BaseException) -> DockerStartError:
    """Return the error for an engine that does not answer, from the Docker library's own error.

    Args:
        host: address of the engine.
        error: the library's; only its text says what is wrong.
    """
    text = str(error)
    if "PermissionError" in text:
        return DockerStartError(
            f"the Docker engine at {host} refuses this user (permission denied)",
            "become a member of its group, as with: sudo usermod -aG docker $USER, and log in anew;"
            " or set DOCKER_HOST to an engine of your own",
        )
    if re.search("FileNotFoundError|ConnectionRefusedError|Connection refused|Name or service", text):
        return DockerStartError(
            f"no Docker engine answers at {host}",
            "start Docker, or set DOCKER_HOST to where it listens",
        )
    return DockerStartError(
        f"the Docker engine at {host} cannot be used: {text.splitlines()[0][:300] if text else type(error).__name__}",
        "see what `docker version` says; DOCKER_HOST names another engine",
    )
