"""The provisioner: which sandboxes it has given, and what it says when it takes them back."""

import pytest

from pytest_opensandbox import ApiError, Client, NotFoundError, SandboxOpts, ServerStartError
from pytest_opensandbox.provisioning.provisioner import Provisioner
from pytest_opensandbox.provisioning.sandbox_request import ResolvedRequest
from pytest_opensandbox.provisioning.setup import SandboxSetup
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.tracking import RunTags, Tally
from tests.forks import FORKS, in_a_fork
from tests.scripted_servers import as_json, serving


def request_for(**opts):
    return ResolvedRequest(opts=SandboxOpts(**opts), setup=SandboxSetup(), command_timeout=60)


class Server:
    """The server of this run, for a provisioner of its own."""

    scope = "test"

    def __init__(self, client):
        self._client = client

    def client(self):
        return self._client

    def explain(self, error, *, is_first, is_final):
        return error if isinstance(error, ApiError) and error.status >= 500 else ServerStartError(f"first: {is_first}")


def provisioner_on(client, settings, store):
    tags = RunTags("run-of-a-test")
    return Provisioner(Server(client), tags=tags, settings=settings, store=store, notify=lambda line: None)


@pytest.fixture
def provisioner(opensandbox_client, opensandbox_settings):
    store = SharedStore()
    provisioner = provisioner_on(opensandbox_client, opensandbox_settings, store)
    yield provisioner
    for sandbox in provisioner.open:
        provisioner.release(sandbox)
    provisioner.close()
    store.clear()


@pytest.fixture
def plain_request(opensandbox_settings):
    return request_for(image=opensandbox_settings.image)


def test_a_sandbox_is_open_until_it_is_released(provisioner, plain_request, opensandbox_client):
    sandbox = provisioner.acquire(plain_request)
    before = provisioner.open

    was_open = provisioner.release(sandbox)

    assert (before, was_open, provisioner.open) == ([sandbox], True, [])
    assert provisioner.tally == Tally(created=1, deleted=1)
    with pytest.raises(NotFoundError):
        opensandbox_client.get_sandbox(sandbox.id)


def test_only_the_first_release_counts(provisioner, plain_request):
    sandbox = provisioner.acquire(plain_request)

    assert [provisioner.release(sandbox), provisioner.release(sandbox)] == [True, False]


def test_a_sandbox_that_was_closed_by_hand_is_released_all_the_same(provisioner, plain_request):
    sandbox = provisioner.acquire(plain_request)

    sandbox.close()

    assert provisioner.open == [sandbox]
    assert provisioner.release(sandbox)


@FORKS
def test_a_fork_releases_no_sandbox_of_its_parent(provisioner, plain_request):
    sandbox = provisioner.acquire(plain_request)

    def check():
        assert provisioner.open == []
        assert not provisioner.release(sandbox)

    assert in_a_fork(check)
    assert provisioner.open == [sandbox]
    assert sandbox.run("true").ok


def test_a_failed_create_raises_what_the_server_explains(provisioner):
    with pytest.raises(ServerStartError, match="first: True"):
        provisioner.acquire(request_for(snapshot_id="no-such-snapshot"))

    assert provisioner.tally == Tally()


def test_an_image_that_cannot_be_pulled_is_asked_for_once(opensandbox_settings):
    body = {"code": "DOCKER::SANDBOX_IMAGE_PULL_FAILED", "message": "Failed to pull image no/such:image: no host"}
    with serving(as_json(body, 500)) as server, Client(server.url) as client:
        provisioner = provisioner_on(client, opensandbox_settings, SharedStore())

        for text in ("no host", "could not be pulled before in this run"):
            with pytest.raises(ApiError, match=text):
                provisioner.acquire(request_for(image="no/such:image"))

    assert [request.method for request in server.seen] == ["POST"]
