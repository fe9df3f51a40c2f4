"""The images of the tests, built without a registry: a Debian root with python3, and our agent as execd on top."""

from __future__ import annotations

import io
import os
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import docker

from tests.server.engine import EXECD_IMAGE, IMAGE
from tests.server.rootfs import root_file_system

REPOSITORY = "pytest-opensandbox-test"

_LIBRARIES = ("waitress", "python_multipart")
# Compiled there, because Python cannot store compiled modules in a zip that it runs from.
_PACK = """
import compileall, pathlib, zipapp
compileall.compile_dir("/agent", quiet=1, legacy=True)
for source in pathlib.Path("/agent").rglob("*.py"):
    if source != pathlib.Path("/agent/__main__.py"):
        source.unlink()
zipapp.create_archive("/agent", "/execd", interpreter="/usr/bin/env python3")
"""
_MAIN = "from agent.__main__ import main\nmain()\n"
_BOOTSTRAP = '#!/bin/sh\n/opt/opensandbox/execd --listen 0.0.0.0:44772 --linger 1 &\nexec "$@"\n'


@dataclass(frozen=True)
class Images:
    """Names of images on the engine."""

    sandbox: str
    """Has bash, tar and python3."""
    execd: str
    """Has /execd and /bootstrap.sh, as the server expects them."""


@contextmanager
def images(host: str) -> Iterator[Images]:
    """Yield the images that the environment names, or new ones that are deleted after the block."""
    named = Images(os.environ.get(IMAGE, ""), os.environ.get(EXECD_IMAGE, ""))
    if named.sandbox and named.execd:
        yield named
        return
    token = uuid.uuid4().hex[:8]
    built = Images(f"{REPOSITORY}:sandbox-{token}", f"{REPOSITORY}:execd-{token}")
    client = docker.DockerClient(base_url=host, timeout=300)
    try:
        client.api.import_image_from_file(str(root_file_system()), repository=REPOSITORY, tag=f"sandbox-{token}")
        _build_execd(client, built.sandbox, f"execd-{token}")
        yield Images(named.sandbox or built.sandbox, named.execd or built.execd)
    finally:
        for name in (built.execd, built.sandbox):
            with suppress(docker.errors.ImageNotFound):
                client.images.remove(name)
        client.close()


def _build_execd(client: docker.DockerClient, base: str, tag: str) -> None:
    """Build the image in a container, step by step; a build would leave layers in the engine's cache."""
    container = client.containers.create(base, command=["tail", "-f", "/dev/null"])
    try:
        container.start()
        container.put_archive("/", _agent())
        packed = container.exec_run(["python3", "-c", _PACK])
        assert packed.exit_code == 0, packed.output.decode()
        container.commit(repository=REPOSITORY, tag=tag)
    finally:
        container.remove(force=True, v=True)


def _agent() -> bytes:
    """Return a tar of the agent with its libraries, and of the script that starts it."""
    package = find_spec("pytest_opensandbox.embedded.agent")
    assert package is not None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(str(Path(str(package.origin)).parent), "agent/agent", filter=_without_caches)
        for name in _LIBRARIES:
            source = Path(str(find_spec(name).origin)).parent  # type: ignore[union-attr] - the extra brings it along
            tar.add(str(source), f"agent/{name}", filter=_without_caches)
        _add_text(tar, "agent/__main__.py", _MAIN, mode=0o644)
        _add_text(tar, "bootstrap.sh", _BOOTSTRAP, mode=0o755)
    return buffer.getvalue()


def _add_text(tar: tarfile.TarFile, name: str, text: str, *, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(text.encode()), mode, time.time()  # a zip knows no 1970
    tar.addfile(entry, io.BytesIO(text.encode()))


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry
