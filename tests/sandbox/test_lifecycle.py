"""A sandbox cannot be forgotten: tags and a lease on every create, and nothing stays when something goes wrong."""

import uuid
from dataclasses import replace

import pytest

from pytest_opensandbox import ApiError, Client, SandboxFailedError, SandboxOpts, TransportError
from pytest_opensandbox.client.sandbox_opts import check_label
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import TAG_CREATE, TAG_PROJECT, TAG_RUN, TAG_TEST, TAG_WORKER, RunTags
from tests.embedded.machine import wait_until
from tests.scripted_servers import OneSandboxServer, as_json, serving


@pytest.fixture
def plain(opensandbox_settings):
    """The plainest options."""
    return SandboxOpts(image=opensandbox_settings.image)


@pytest.fixture
def lifecycle(opensandbox_client, request):
    """A lifecycle of a run of its own; what a test leaves is deleted by its tag."""
    run = Lifecycle(opensandbox_client, tags=RunTags(f"run-{uuid.uuid4().hex}", project=request.node.name))
    yield run
    run.close()
    for stray in opensandbox_client.list_sandboxes({TAG_RUN: run.tags.run_id}):
        opensandbox_client.delete_sandbox(stray.id)


def failing(client, error, *, after_creating=True):
    """A client of the same server, whose answer to a create is lost."""

    class Failing(Client):
        def create_sandbox(self, opts):
            if after_creating:
                client.create_sandbox(opts)
            raise error

        def __getattribute__(self, name):
            return object.__getattribute__(self, name) if name == "create_sandbox" else getattr(client, name)

    return object.__new__(Failing)


def alive(lifecycle):
    return [sandbox.id for sandbox in lifecycle.client.list_sandboxes({TAG_RUN: lifecycle.tags.run_id})]


def test_a_restored_sandbox_inherits_no_label_of_another_run(lifecycle, plain):
    """On Docker and on the embedded server it has those of the snapshot's source, unless they are overwritten."""
    client = lifecycle.client
    other = Lifecycle(client, tags=RunTags("another-run", worker_id="gw7", project="another"))
    source = other.launch(plain, test="tests/test_a.py::test_of_the_source").response.id
    snapshot = client.create_snapshot(source).id
    assert wait_until(lambda: client.get_snapshot(snapshot).state == "Ready")
    run = Lifecycle(client, tags=RunTags(lifecycle.tags.run_id))

    restored = run.launch(SandboxOpts(snapshot_id=snapshot)).response.id
    found = client.get_sandbox(restored).metadata

    for sandbox_id in (restored, source):
        client.delete_sandbox(sandbox_id)
    client.delete_snapshot(snapshot)
    other.close()
    run.close()
    tags = {name: found.get(name, "") for name in (TAG_RUN, TAG_WORKER, TAG_PROJECT, TAG_TEST)}
    assert tags == {TAG_RUN: lifecycle.tags.run_id, TAG_WORKER: "main", TAG_PROJECT: "", TAG_TEST: ""}


def test_every_sandbox_carries_its_run_and_its_test(lifecycle, plain):
    launched = lifecycle.launch(plain, test="tests/test_a.py::test_b[x y]")

    metadata = lifecycle.client.get_sandbox(launched.response.id).metadata
    assert (metadata[TAG_RUN], metadata[TAG_WORKER]) == (lifecycle.tags.run_id, "main")
    assert metadata[TAG_TEST].startswith("tests-test_a.py-test_b-x-y-")
    assert {TAG_PROJECT, TAG_CREATE} <= set(metadata)


def test_tags_are_legal_labels_and_unique_for_each_create():
    tags = RunTags("run", "gw0", "My Project (2)")

    first, second = tags.metadata(test="a::b"), tags.metadata(test="a::b")

    assert first[TAG_CREATE] != second[TAG_CREATE]
    for key, value in first.items():
        check_label(key, value)


def test_the_callers_own_labels_stay(lifecycle, plain):
    launched = lifecycle.launch(replace(plain, metadata={"team": "blue"}))

    assert lifecycle.client.get_sandbox(launched.response.id).metadata["team"] == "blue"


def test_a_sandbox_lives_no_longer_than_its_lease(opensandbox_client, plain):
    lifecycle = Lifecycle(opensandbox_client, tags=RunTags("short"), lease_seconds=90)

    launched = lifecycle.launch(plain)

    sandbox = opensandbox_client.get_sandbox(launched.response.id)
    lifecycle.delete(sandbox.id)
    lifecycle.close()
    assert 85 <= (sandbox.expires_at - sandbox.created_at).total_seconds() <= 95


def test_a_renewal_moves_the_end_of_a_sandbox(lifecycle, plain):
    launched = lifecycle.launch(plain)
    before = lifecycle.client.get_sandbox(launched.response.id).expires_at
    lifecycle.lease.seconds = 600

    lifecycle.lease.renew_all()

    assert lifecycle.client.get_sandbox(launched.response.id).expires_at > before


def test_a_sandbox_whose_answer_was_lost_is_adopted(lifecycle, opensandbox_client, plain):
    lost = TransportError("connection reset", method="POST", url="http://x")
    lifecycle.client = failing(opensandbox_client, lost)

    launched = lifecycle.launch(plain)

    assert alive(lifecycle) == [launched.response.id]
    assert lifecycle.ledger.created == (launched.response.id,)


@pytest.mark.parametrize("status", [502, 504])
def test_an_answer_of_a_gateway_is_looked_into(lifecycle, opensandbox_client, status, plain):
    lifecycle.client = failing(opensandbox_client, ApiError(status))

    launched = lifecycle.launch(plain)

    assert alive(lifecycle) == [launched.response.id]


# Kubernetes takes back what it could not start in time, and lists it for as long as its pod needs to end.
@pytest.mark.parametrize("state", ["Stopping", "Failed"])
def test_what_a_server_is_taking_back_is_not_adopted(state):
    listing = {"items": [{"id": "s1", "status": {"state": state}}], "pagination": {"hasNextPage": False}}
    refusal = as_json({"code": "KUBERNETES::POD_READY_TIMEOUT", "message": "Timeout waiting"}, 504)
    server = OneSandboxServer(create=[refusal], list=[as_json(listing)])
    with serving(server=server), Client(server.url) as client:
        run = Lifecycle(client, tags=RunTags("run"))
        with pytest.raises(ApiError, match=r"Timeout waiting .*use a pool") as caught:
            run.launch(SandboxOpts(image="a"))
        run.close()

    assert caught.value.status == 504
    assert server.calls == ["create", "list", "delete"]


def test_an_interrupted_create_leaves_nothing(lifecycle, opensandbox_client, plain):
    # Ctrl-C while the POST is under way: no fixture holds the sandbox yet.
    lifecycle.client = failing(opensandbox_client, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        lifecycle.launch(plain)

    assert alive(lifecycle) == []


def test_a_create_that_made_nothing_is_the_error_that_it_was(lifecycle, opensandbox_client, plain):
    lost = TransportError("connection refused", method="POST", url="http://x")
    lifecycle.client = failing(opensandbox_client, lost, after_creating=False)

    with pytest.raises(TransportError, match="refused"):
        lifecycle.launch(plain)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ApiError(500)], ids=["Ctrl-C", "server error"])
def test_a_sandbox_that_does_not_become_ready_is_deleted(lifecycle, opensandbox_client, error, plain):
    class Interrupted(Client):
        def wait_ready_endpoint(self, *args, **kwargs):
            raise error

        def __getattribute__(self, name):
            if name == "wait_ready_endpoint":
                return object.__getattribute__(self, name)
            return getattr(opensandbox_client, name)

    lifecycle.client = object.__new__(Interrupted)

    with pytest.raises(type(error)):
        lifecycle.launch(plain)

    assert alive(lifecycle) == []
    assert lifecycle.ledger.left == ()


def test_the_error_of_an_entrypoint_that_cannot_run_holds_its_log(lifecycle, plain):
    with pytest.raises(SandboxFailedError, match="no-such-program") as caught:
        lifecycle.launch(replace(plain, entrypoint=["no-such-program"]))

    assert caught.value.state == "Failed"
    assert alive(lifecycle) == []


def test_deleting_what_is_gone_is_fine(lifecycle, plain):
    launched = lifecycle.launch(plain)
    lifecycle.client.delete_sandbox(launched.response.id)

    lifecycle.delete(launched.response.id)

    assert lifecycle.ledger.left == ()
