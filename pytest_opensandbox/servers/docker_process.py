"""The program that runs opensandbox-server: it ends with its supervisor, and takes over no sandbox of other servers."""

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
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    _disable_restore()
    from opensandbox_server.cli import main as serve  # lazy: the import reads the configuration file

    sys.argv[1:] = ["--config", config]
    serve()


def _end_with_supervisor() -> None:
    """Send this process SIGTERM when standard input has closed, as it does when the supervisor ends."""
    while os.read(0, _READ_BYTES):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _disable_restore() -> None:
    """Keep the server from taking over the sandboxes that it finds on the engine when it starts.

    It would delete those of other servers too early: only their own servers know that they were renewed.

    Source: DockerSandboxService._restore_existing_sandboxes, opensandbox-server 1.1.1.
    """
    from opensandbox_server.services.docker.docker_service import DockerSandboxService

    name = "_restore_existing_sandboxes"
    if hasattr(DockerSandboxService, name):
        setattr(DockerSandboxService, name, lambda self: None)
    elif _has_other_sandboxes():
        sys.exit("other servers have sandboxes on this engine, and this opensandbox-server would delete them")


def _has_other_sandboxes() -> bool:
    import docker

    return bool(docker.from_env().containers.list(all=True, filters={"label": "opensandbox.io/expires-at"}))


if __name__ == "__main__":
    main(sys.argv[1])
