"""Images that a server could not pull: what is refused afterwards, and what is not."""

import pytest

from pytest_opensandbox import ApiError, NetworkPolicy, SandboxOpts
from pytest_opensandbox.provisioning.refused_images import RefusedImages, is_about_image


def pull_failed(image):
    message = f"Failed to pull image {image}: no host"
    return ApiError(500, code="DOCKER::SANDBOX_IMAGE_PULL_FAILED", message=message, method="POST", url="http://here")


def test_the_embedded_servers_image_is_no_image_elsewhere():
    refused, error = RefusedImages(), pull_failed("host")

    refused.note(SandboxOpts(image="host"), error)

    assert "'host' is what the embedded server calls this machine's own system, and no image: name one" in str(error)
    assert "docker pull" not in str(error)


def test_an_image_that_cannot_be_pulled_is_explained_once():
    refused = RefusedImages()
    missing, error = SandboxOpts(image="no/such:image"), pull_failed("no/such:image")

    refused.note(missing, error)

    assert "Does `docker pull no/such:image` work where the server runs? --opensandbox-image" in str(error)
    with pytest.raises(ApiError, match="no/such:image could not be pulled before in this run") as later:
        refused.check(missing)
    assert "docker pull" not in str(later.value)


def test_an_image_that_cannot_be_pulled_does_no_harm_to_the_others():
    refused = RefusedImages()
    others_can_be_created = refused.note(SandboxOpts(image="a:1"), pull_failed("a:1"))

    refused.check(SandboxOpts(image="b:1"))
    assert others_can_be_created


def test_without_the_agents_image_no_other_sandbox_can_be_created():
    refused, error = RefusedImages(), pull_failed("opensandbox/execd:v1")

    others_can_be_created = refused.note(SandboxOpts(image="a:1"), error)

    assert not others_can_be_created


GUARDED = NetworkPolicy.only("example.org")
GUARD = "opensandbox/egress:v1"


def test_without_the_image_of_the_network_guard_the_others_go_on():
    refused = RefusedImages()
    guarded, plain = SandboxOpts(image="a:1", network_policy=GUARDED), SandboxOpts(image="a:1")

    refused.note(guarded, pull_failed(GUARD))

    refused.check(plain)
    for image in ("a:1", "b:1"):
        with pytest.raises(ApiError, match=f"{GUARD} could not be pulled before in this run"):
            refused.check(SandboxOpts(image=image, network_policy=GUARDED))


def test_the_image_of_a_guarded_sandbox_is_known_by_its_own_name():
    refused = RefusedImages()

    refused.note(SandboxOpts(image="a:1", network_policy=GUARDED), pull_failed("a:1"))

    refused.check(SandboxOpts(image="b:1", network_policy=GUARDED))
    with pytest.raises(ApiError, match="a:1 could not be pulled"):
        refused.check(SandboxOpts(image="a:1"))


def test_the_image_of_a_snapshot_that_is_gone_does_no_harm_to_the_others():
    refused = RefusedImages()
    restored = SandboxOpts(image=None, snapshot_id="snap-1")

    refused.note(restored, pull_failed("opensandbox-snapshots:snap-1"))

    refused.check(SandboxOpts(image="a:1"))
    refused.check(SandboxOpts(image=None, snapshot_id="snap-2"))
    with pytest.raises(ApiError, match="opensandbox-snapshots:snap-1 could not be pulled before"):
        refused.check(restored)


def test_where_the_server_names_no_image_only_the_same_request_is_refused():
    refused = RefusedImages()
    unnamed = ApiError(500, code="DOCKER::SANDBOX_IMAGE_PULL_FAILED", message="no")

    refused.note(SandboxOpts(image="a:1", network_policy=GUARDED), unnamed)

    refused.check(SandboxOpts(image="a:1"))
    refused.check(SandboxOpts(image="b:1", network_policy=GUARDED))
    with pytest.raises(ApiError, match="a:1 could not be pulled before"):
        refused.check(SandboxOpts(image="a:1", network_policy=GUARDED))


def test_another_refusal_is_about_no_image():
    assert is_about_image(pull_failed("a:1"))
    assert not is_about_image(ApiError(503, message="busy"))
