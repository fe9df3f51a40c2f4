"""One process's part of a run: what it starts, counts, closes and gives up."""

import socket
from dataclasses import replace
from threading import Timer

import pytest

from pytest_opensandbox.errors import SandboxClosedError, ServerStartError, TransportError
from pytest_opensandbox.plugin.fixtures import SandboxFactory
from pytest_opensandbox.plugin.marker import check_items, resolved_request
from pytest_opensandbox.plugin.run import Run
from pytest_opensandbox.provisioning.sandbox_request import SandboxRequest
from pytest_opensandbox.sandbox.tracking import Tally
from tests.forks import FORKS, in_a_fork


@pytest.fixture
def run(pytestconfig, opensandbox_settings):
    """A run of its own inside the one that tests it, with an embedded server of its own."""
    settings = replace(opensandbox_settings, url="embedded", image="host")
    run = Run(pytestconfig, settings, run_id="inner", worker_id="main")
    yield run
    run.finish()


@pytest.fixture
def nowhere(pytestconfig, opensandbox_settings):
    """A run whose server does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = replace(opensandbox_settings, url=f"http://127.0.0.1:{port}", image="host")
    return Run(pytestconfig, settings, run_id="inner", worker_id="main")


def test_a_run_that_makes_nothing_opens_nothing(run, monkeypatch):
    monkeypatch.setattr(run.server, "client", lambda: pytest.fail("a server was asked for"))

    run.finish()

    assert not run.tally.used


def test_a_sandbox_is_counted_and_closed_with_the_run(run):
    made = SandboxFactory(run)()
    before = run.tally

    run.finish()
    run.finish()

    assert before == Tally(created=1, left=(made.id,))
    assert made.closed
    assert run.tally == Tally(created=1, deleted=1)


@pytest.fixture
def on_closed(pytestconfig):
    """Implement the hook for closed sandboxes by a function, for the test."""
    plugins = []

    def register(function):
        plugins.append(type("Plugin", (), {"pytest_opensandbox_closed": lambda self, sandbox: function(sandbox)})())
        pytestconfig.pluginmanager.register(plugins[-1])

    yield register
    for plugin in plugins:
        pytestconfig.pluginmanager.unregister(plugin)


def test_what_is_open_is_closed_the_newest_first(run, on_closed):
    closed = []
    on_closed(closed.append)
    sandboxes = [acquire(run) for _ in range(2)]

    run.release_all()

    assert closed == sandboxes[::-1]


def test_the_hook_is_told_once_of_a_sandbox_that_a_test_closes_itself(run, on_closed):
    closed = []
    on_closed(closed.append)
    sandbox = acquire(run)

    sandbox.close()
    run.release_closed()
    run.release(sandbox)

    assert closed == [sandbox]


def test_what_cannot_be_deleted_now_is_left_to_the_sweep(run, monkeypatch):
    sandbox = acquire(run)
    with monkeypatch.context() as patch:
        patch.setattr(run.client(), "delete_sandbox", lambda _: raise_error())
        run.release(sandbox)
    left = run.tally.left

    report = run.sweep()

    assert left == (sandbox.id,)
    assert (report.deleted, report.left, report.error) == ((sandbox.id,), (), "")


def test_a_hook_that_fails_for_a_closed_sandbox_is_reported(run, on_closed):
    """Its author could not know otherwise, even where the error is one of ours."""
    on_closed(lambda sandbox: sandbox.run("true"))
    sandbox = acquire(run)

    with pytest.raises(SandboxClosedError):
        run.release(sandbox)

    assert run.tally == Tally(created=1, deleted=1)


@FORKS
def test_a_fork_ends_what_it_has_made_and_nothing_of_its_parents(run):
    """A child of a test may come to pytest's end before its parent does, which still needs sandboxes and server."""
    sandbox = acquire(run)

    went_well = in_a_fork(lambda: (acquire(run), run.release(sandbox), run.finish()))

    alive = [found.id for found in run.client().list_sandboxes()]
    assert went_well
    assert alive == [sandbox.id]
    assert sandbox.run("true").ok


def test_what_a_create_makes_after_its_answer_was_lost_is_swept(run, monkeypatch):
    """Also where it was the first of the run, which then has no sandbox at all to sweep."""
    client, asked = run.client(), []
    with monkeypatch.context() as patch:
        patch.setattr(client, "create_sandbox", lambda opts: asked.append(opts) or raise_error())
        with pytest.raises(ServerStartError):
            acquire(run)
    late = Timer(0.3, client.create_sandbox, asked)
    late.start()

    run.finish()

    late.join()
    assert (run.tally.created, len(run.tally.swept), run.tally.left) == (1, 1, ())


def test_a_test_has_used_what_it_made_or_ran_a_command_in(run, request):
    idle, busy = acquire(run), acquire(run)

    with run.test(request.node):
        fresh = acquire(run)
        busy.run("true")
        used = run.used_by_test()

    assert used == [busy, fresh]
    assert idle not in used


def test_one_that_a_tests_own_body_makes_ends_with_that_test(run, request, monkeypatch):
    finalizers = []
    monkeypatch.setattr(request.node, "addfinalizer", finalizers.append)

    with run.test(request.node), run.part(body=True):
        in_body = acquire(run)
        with run.part(body=False):
            in_fixture = acquire(run)
    for finalize in finalizers:
        finalize()

    assert in_body.closed
    assert not in_fixture.closed


def test_a_marker_that_breaks_a_rule_is_a_usage_error_that_names_the_test(run, request):
    request.node.add_marker(pytest.mark.sandbox(timeout=-1))

    with pytest.raises(pytest.UsageError, match="names_the_test: timeout must be seconds"):
        check_items([request.node], run.settings)


def test_a_test_without_a_marker_asks_for_what_the_options_say(run, request):
    asked = SandboxRequest().resolve(run.settings, root=request.config.rootpath)

    assert resolved_request(request, run.settings) == asked


@pytest.mark.sandbox(env={"A": "1"})
def test_what_was_checked_at_collection_is_not_built_again(sandbox, request, opensandbox_settings):
    first, second = (resolved_request(request, opensandbox_settings) for _ in range(2))

    assert first is second
    assert first.opts.env == {"A": "1"}


def test_a_marker_that_is_added_after_the_collection_counts(run, request):
    check_items([request.node], run.settings)
    request.node.add_marker(pytest.mark.sandbox(env={"A": "1"}))

    assert resolved_request(request, run.settings).opts.env == {"A": "1"}


def test_a_server_that_is_not_there_is_waited_for_once(nowhere):
    with pytest.raises(ServerStartError, match="is an OpenSandbox server running there"):
        acquire(nowhere)

    with pytest.raises(ServerStartError, match="see its first error"):
        acquire(nowhere)

    nowhere.finish()
    assert not nowhere.tally.used


def test_a_server_that_is_away_for_a_moment_is_asked_again(run, monkeypatch):
    first = acquire(run)
    with monkeypatch.context() as patch:
        patch.setattr(run.client(), "create_sandbox", lambda _: raise_error())
        with pytest.raises(TransportError):
            acquire(run)

    second = acquire(run)

    assert first.run("true").ok
    assert second.run("true").ok


def acquire(run):
    """Return a sandbox as the options describe it."""
    return run.acquire(SandboxRequest().resolve(run.settings, root=run.config.rootpath))


def raise_error():
    raise TransportError("away", method="POST", url="http://h/v1/sandboxes")
