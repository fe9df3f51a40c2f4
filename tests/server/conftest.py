"""Fixtures of the tests on a real Docker engine: the engine, its images and its containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

docker = pytest.importorskip("docker", reason="needs pip install 'pytest-opensandbox[docker]'")

from tests.server import engine as engines  # noqa: E402 - the extra first
from tests.server import images as image_builder  # noqa: E402


@pytest.fixture(autouse=True)
def _environment(clean_environment: None) -> None:
    """What a test here starts shall know of this engine only."""


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The address of a real engine; processes of the tests find it by DOCKER_HOST."""
    why = engines.missing_requirement()
    if why:
        pytest.skip(why)
    with engines.running_engine() as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        yield host


@pytest.fixture(scope="session")
def images(engine: str) -> Iterator[image_builder.Images]:
    """The image of a sandbox and that of the agent."""
    with image_builder.images(engine) as named:
        yield named


@pytest.fixture(scope="session")
def client(engine: str) -> Iterator[docker.DockerClient]:
    """The Docker library's client, to look at the engine without our code."""
    with closing(docker.DockerClient(base_url=engine)) as client:
        yield client


@pytest.fixture
def on_docker(images: image_builder.Images) -> tuple[str, ...]:
    """The options of a run whose sandboxes are on this engine."""
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
