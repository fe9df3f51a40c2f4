"""The containers, images, networks and volumes on an engine that should be gone after the tests."""

from __future__ import annotations

import docker

from tests.server.images import REPOSITORY

SNAPSHOTS = "opensandbox-snapshots"


def inventory(client: docker.DockerClient) -> list[str]:
    """Return a line for each container, image, network and volume of the tests, or of unknown origin."""
    return sorted([*_containers(client), *_images(client), *_networks(client), *_volumes(client)])


def _containers(client: docker.DockerClient) -> list[str]:
    found = client.api.containers(all=True)
    names = [(item["Names"] or [item["Id"]])[0] for item in found]
    labels = [item.get("Labels") or {} for item in found]
    return [
        f"container {name}"
        for name, label in zip(names, labels, strict=True)
        if name.startswith("/sandbox-") or any("opensandbox" in key for key in label)
    ]


def _images(client: docker.DockerClient) -> list[str]:
    """Return images of the tests, and layers without a name."""
    ours = [tag for item in client.api.images() for tag in item.get("RepoTags") or ()]
    named = [f"image {tag}" for tag in ours if tag.startswith((f"{REPOSITORY}:", f"{SNAPSHOTS}:"))]
    return named + [f"image {item['Id']}" for item in client.api.images(filters={"dangling": True})]


def _networks(client: docker.DockerClient) -> list[str]:
    return [
        f"network {item['Name']}" for item in client.api.networks() if item["Name"] not in ("bridge", "host", "none")
    ]


def _volumes(client: docker.DockerClient) -> list[str]:
    return [f"volume {item['Name']}" for item in client.api.volumes()["Volumes"] or ()]
