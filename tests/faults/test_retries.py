"""What does the same however often it is asked is asked again; a create, a command and a pause never are."""

import pytest

from pytest_opensandbox import FileUpload, OpenSandboxError
from tests.faults.bench import CONTENT
from tests.faults.faults import refuse_with, reset_after, reset_at_once, truncate
from tests.faults.proxy import Plan


def made(bench):
    """Return the id of a sandbox, made past the proxy."""
    return bench.truth.create_sandbox(bench.opts).id


FAILURES = [
    pytest.param(reset_at_once, id="reset before"),
    pytest.param(reset_after, id="reset after"),
    pytest.param(truncate, id="truncated"),
    pytest.param(refuse_with(429, retry_after="0"), id="429"),
    pytest.param(refuse_with(502), id="502"),
    pytest.param(refuse_with(503, retry_after="0"), id="503"),
]
IDEMPOTENT = [
    pytest.param("^GET .*/sandboxes/", lambda bench: bench.client.get_sandbox(bench.sandbox.id), id="get"),
    pytest.param("^GET .*/sandboxes[?]", lambda bench: bench.client.list_sandboxes(), id="list"),
    pytest.param("^GET .*/endpoints/", lambda bench: bench.client.get_endpoint(bench.sandbox.id, 80), id="endpoint"),
    pytest.param("^POST .*/renew", lambda bench: bench.client.renew(bench.sandbox.id, 300), id="renew"),
    pytest.param("^PATCH ", lambda bench: bench.client.patch_metadata(bench.sandbox.id, {"a": None}), id="patch"),
    pytest.param("^GET .*/diagnostics", lambda bench: bench.client.diagnostics(bench.sandbox.id), id="diagnostics"),
    pytest.param("^GET .*/snapshots", lambda bench: bench.client.list_snapshots(), id="list of snapshots"),
    pytest.param("^DELETE ", lambda bench: bench.client.delete_sandbox(made(bench)), id="delete"),
    pytest.param("^GET .*/files/info", lambda bench: bench.client.files_info(bench.agent, ["/tmp"]), id="info"),
    pytest.param("^GET .*/files/search", lambda bench: bench.client.search_files(bench.agent, "/tmp"), id="search"),
    pytest.param("^GET .*/files/download", lambda bench: bench.sandbox.get("/tmp/kept/one.bin"), id="get of a file"),
    pytest.param("^POST .*/files/upload", lambda bench: bench.sandbox.put(CONTENT, "/tmp/again"), id="put of a file"),
    pytest.param("^DELETE .*/files", lambda bench: bench.client.remove_files(bench.agent, ["/no"]), id="remove"),
    pytest.param(
        "^POST .*/directories", lambda bench: bench.client.make_directories(bench.agent, ["/tmp/d"]), id="make"
    ),
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("matching", "act"), IDEMPOTENT)
def test_an_idempotent_call_is_repeated(bench, matching, act, failure):
    plan = Plan(failure, matching=matching)
    bench.proxy.spoil(plan)

    act(bench)

    assert plan.met == 1
    assert sum(request.startswith(matching[1:4]) for request in bench.proxy.seen) >= 2


ONCE = [
    pytest.param("^POST .*/sandboxes$", lambda bench, sandbox: bench.client.create_sandbox(bench.opts), id="create"),
    pytest.param("^POST .*/command", lambda bench, _: bench.client.run_command(bench.agent, "true"), id="command"),
    pytest.param("^POST .*/command", lambda bench, sandbox: bench.sandbox.run("true"), id="run"),
    pytest.param(
        "^POST .*/command", lambda bench, sandbox: bench.sandbox.run("true", on_stdout=print), id="run, with callbacks"
    ),
    pytest.param("^POST .*/pause", lambda bench, sandbox: bench.client.pause(sandbox), id="pause"),
    pytest.param("^POST .*/resume", lambda bench, sandbox: bench.client.resume(sandbox), id="resume"),
    pytest.param(
        "^POST .*/snapshots", lambda bench, sandbox: bench.client.create_snapshot(sandbox, "x"), id="snapshot"
    ),
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("matching", "act"), ONCE)
def test_what_might_happen_twice_is_sent_once(bench, matching, act, failure):
    plan = Plan(failure, times=9, matching=matching)
    bench.proxy.spoil(plan)

    with pytest.raises(OpenSandboxError):
        act(bench, "no-such-sandbox")

    assert plan.met == 1
    bench.proxy.heal()
    assert bench.swept() == []


def test_an_upload_that_was_cut_off_is_whole_when_it_is_repeated(bench):
    def cut(exchange):
        exchange.pass_part(len(exchange.request) // 2)
        return exchange.reset()

    bench.proxy.spoil(Plan(cut, matching="upload"))

    bench.client.upload_files(bench.agent, [FileUpload("/tmp/cut", CONTENT)])

    assert bench.truth.download_file(bench.direct, "/tmp/cut").read() == CONTENT
