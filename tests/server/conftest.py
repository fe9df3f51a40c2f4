"""What the tests on a real Docker engine share: the engine, its images, and what is on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

docker = pytest.importorskip("docker", reason="needs pip install 'pytest-opensandbox[docker]'")

from tests.server import engine as engines  # noqa: E402 - the extra first
from tests.server import images as made  # noqa: E402


@pytest.fixture(autouse=True)
def _environment(clean_environment: None) -> None:
    """What a test here starts shall know of this engine only."""


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The address of a real engine; what is started here finds it by DOCKER_HOST."""
    why = engines.why_none()
    if why:
        pytest.skip(why)
    with engines.running_engine() as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        yield host


@pytest.fixture(scope="session")
def images(engine: str) -> Iterator[made.Images]:
    """The image of a sandbox and that of the agent."""
    with made.images(engine) as named:
        yield named


@pytest.fixture(scope="session")
def client(engine: str) -> Iterator[docker.DockerClient]:
    """The Docker library's client, to look at the engine without our code."""
    with closing(docker.DockerClient(base_url=engine)) as found:
        yield found


@pytest.fixture
def on_docker(images: made.Images) -> tuple[str, ...]:
    """The options with which a run has its sandboxes from this engine."""
    return (
        "--opensandbox-url=docker",
        f"--opensandbox-image={images.sandbox}",
        f"--opensandbox-execd-image={images.execd}",
    )


@pytest.fixture
def of_run(client: docker.DockerClient) -> Callable[[str], list[str]]:
    """Return the names of the containers that a project's runs have on the engine."""

    def of_run(project: str) -> list[str]:
        label = {"label": f"pytest-opensandbox.project={project}"}
        return [found["Names"][0] for found in client.api.containers(all=True, filters=label)]

    return of_run
