"""Runs opensandbox-server in this process: it ends with its guard, and leaves what other servers made alone."""

from __future__ import annotations

import os
import signal
import sys
import threading

_READ_BYTES = 4096


def main(config: str) -> None:
    """Serve until standard input closes.

    Args:
        config: path of the server's configuration file.
    """
    threading.Thread(target=_end_with_guard, daemon=True).start()
    _restore_nothing()
    from opensandbox_server.cli import main as serve  # lazily: it reads the file as soon as it is loaded

    sys.argv[1:] = ["--config", config]
    serve()


def _end_with_guard() -> None:
    """End in good order when standard input has closed."""
    while os.read(0, _READ_BYTES):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _restore_nothing() -> None:
    """Keep the server from taking over the sandboxes that it finds on the engine when it starts.

    It would end those of other servers too early: when they were renewed is in their own servers' files.

    Source: DockerSandboxService._restore_existing_sandboxes, opensandbox-server 1.1.1.
    """
    from opensandbox_server.services.docker.docker_service import DockerSandboxService

    name = "_restore_existing_sandboxes"
    if hasattr(DockerSandboxService, name):
        setattr(DockerSandboxService, name, lambda self: None)
    elif _others():
        sys.exit("other servers have sandboxes on this engine, and this opensandbox-server would end them")


def _others() -> bool:
    import docker

    return bool(docker.from_env().containers.list(all=True, filters={"label": "opensandbox.io/expires-at"}))


if __name__ == "__main__":
    main(sys.argv[1])
