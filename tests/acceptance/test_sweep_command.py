"""``python -m pytest_opensandbox sweep``: it deletes what a killed run left, and nothing else."""

import shlex
import sys

import pytest

from pytest_opensandbox import SandboxOpts
from pytest_opensandbox.sandbox.snapshot import run_prefix
from pytest_opensandbox.sandbox.tracking import TAG_PROJECT, TAG_RUN


@pytest.fixture
def sweep(pytester):
    """Run the command in the tests' directory."""

    def sweep(*arguments):
        return pytester.run(sys.executable, "-m", "pytest_opensandbox", "sweep", *arguments)

    return sweep


@pytest.fixture
def create(server):
    """Create a sandbox with labels and return its id; it is deleted after the test."""
    made = []
    with server.client() as client:

        def create(labels, *, lease=120):
            made.append(client.create_sandbox(SandboxOpts(image=server.image, metadata=labels, timeout=lease)).id)
            return made[-1]

        yield create
        for sandbox_id in made:
            client.delete_sandbox(sandbox_id)


@pytest.fixture
def alive(server):
    """Return the ids of those sandboxes that still exist."""

    def alive(*sandbox_ids):
        with server.client() as client:
            found = {sandbox.id for sandbox in client.list_sandboxes()}
        return [sandbox_id for sandbox_id in sandbox_ids if sandbox_id in found]

    return alive


def test_the_sandboxes_of_one_run_go_and_those_of_its_foreign_stay(server, sweep, create, alive):
    ours = {TAG_PROJECT: server.project}
    left = create(ours | {TAG_RUN: "killed"})
    foreign = [create(ours | {TAG_RUN: "living"}), create({TAG_RUN: "killedtoo"}), create({}), create(ours)]

    result = sweep("--run", "killed")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["opensandbox: run killed: 1 deleted, 0 left", f"  deleted {left}"])
    assert alive(left, *foreign) == foreign


def test_the_snapshots_of_a_run_go_with_it(server, sweep, create):
    """Snapshots have no lease that would end them."""
    source = create({TAG_RUN: "killed"})
    with server.client() as client:
        made = []
        for run in ("killed", "living"):
            made.append(client.create_snapshot(source, f"{run_prefix(run)}x").id)
            # Docker stops a sandbox while it takes a snapshot, and takes one snapshot at a time.
            client.wait_snapshot_ready(made[-1])
        dry = sweep("--run", "killed", "--dry-run")

        result = sweep("--run", "killed")

        left = [snapshot.id for snapshot in client.list_snapshots() if snapshot.id in made]
        client.delete_snapshot(made[1])
    assert result.ret == 0
    assert left == [made[1]]
    dry.stdout.fnmatch_lines([f"  snapshot {made[0]} (pytest-opensandbox.killed.x)"])
    result.stdout.fnmatch_lines(
        ["opensandbox: run killed: 2 deleted, 0 left", f"  deleted {source}", f"  deleted {made[0]}"]
    )


def test_a_dry_run_shows_and_deletes_nothing(server, sweep, create, alive):
    left = create({TAG_PROJECT: server.project, TAG_RUN: "killed"})

    result = sweep("--run", "killed", "--dry-run")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["opensandbox: run killed: 1 would be deleted", f"  {left}, *, until * UTC"])
    assert alive(left) == [left]


@pytest.mark.parametrize("arguments", [(), ("--expired",)], ids=["by default", "asked for"])
def test_what_a_living_run_holds_is_not_expired(server, sweep, create, alive, arguments):
    held = create({TAG_PROJECT: server.project, TAG_RUN: "living"})

    result = sweep(*arguments)

    assert result.ret == 0
    result.stdout.fnmatch_lines([f"opensandbox: dead runs of {server.project}: 0 deleted, 0 left"])
    assert alive(held) == [held]


def test_the_last_run_is_known_from_pytests_cache(pytester, server, sweep, alive):
    pytester.makepyfile("""
        import os

        def test_it(sandbox):
            print(f"id={sandbox.id}.", flush=True)
            os._exit(3)
    """)
    killed = pytester.runpytest_subprocess("-s")
    left = killed.stdout.str().split("id=")[1].split(".")[0]
    before = alive(left)

    result = sweep("--run", "last")

    assert (before, alive(left), result.ret) == ([left], [], 0)
    result.stdout.fnmatch_lines(["opensandbox: run *: 1 deleted, 0 left"])


@pytest.fixture
def run_by_flag(pytester, server, monkeypatch):
    """Kill a run that names its server by a flag; return its id and that of its sandbox."""
    monkeypatch.delenv("OPEN_SANDBOX_DOMAIN")
    pytester.makepyfile("""
        import os

        def test_it(sandbox):
            print(f"id={sandbox.id}.", flush=True)
            os._exit(3)
    """)
    killed = pytester.runpytest_subprocess("-s", f"--opensandbox-url={server.url}").stdout.str()
    run_id, sandbox_id = killed.split("run=")[1].split()[0], killed.split("id=")[1].split(".")[0]
    yield run_id, sandbox_id
    with server.client() as client:
        client.delete_sandbox(sandbox_id)


@pytest.mark.parametrize("which", ["last", "by its id"])
def test_a_run_is_swept_where_it_was_although_only_a_flag_said_so(sweep, run_by_flag, alive, which):
    run_id, sandbox_id = run_by_flag
    before = alive(sandbox_id)

    result = sweep("--run", "last" if which == "last" else run_id)

    assert (before, alive(sandbox_id), result.ret) == ([sandbox_id], [], 0)
    result.stdout.fnmatch_lines([f"opensandbox: run {run_id}: 1 deleted, 0 left", f"  deleted {sandbox_id}"])


def test_a_run_is_swept_on_its_server_although_a_variable_differs(sweep, run_by_flag, alive, monkeypatch):
    monkeypatch.setenv("OPEN_SANDBOX_DOMAIN", "127.0.0.1:9")

    result = sweep("--run", "last")

    assert (alive(run_by_flag[1]), result.ret) == ([], 0)


@pytest.mark.thorough
def test_a_known_run_that_left_nothing_is_good_news(sweep, run_by_flag):
    sweep("--run", "last")

    result = sweep("--run", run_by_flag[0])

    assert result.ret == 0
    result.stdout.fnmatch_lines([f"opensandbox: run {run_by_flag[0]}: 0 deleted, 0 left"])


def test_the_key_is_not_kept_with_the_place_of_a_run(pytester, server, run_by_flag):
    cached = b"".join(path.read_bytes() for path in (pytester.path / ".pytest_cache").rglob("*") if path.is_file())

    assert server.url.encode() in cached
    assert server.api_key.encode() not in cached


@pytest.mark.thorough
def test_the_printed_command_works_in_another_directory(pytester, server, alive, monkeypatch):
    monkeypatch.delenv("OPEN_SANDBOX_DOMAIN")
    pytester.makeconftest("""
        from pytest_opensandbox import ApiError, Client

        def fail(self, sandbox_id):
            raise ApiError(400, message="not now")

        Client.delete_sandbox = fail
    """)
    pytester.makepyfile("def test_it(sandbox): print(f'id={sandbox.id}.')")
    run = pytester.runpytest_subprocess("-s", f"--opensandbox-url={server.url}")
    left = run.stdout.str().split("id=")[1].split(".")[0]
    command = next(line for line in run.outlines if line.startswith("to delete them now: ")).partition(": ")[2]
    monkeypatch.chdir(pytester.mkdir("elsewhere"))
    before = alive(left)

    result = pytester.run(sys.executable, *shlex.split(command)[1:])

    assert (before, alive(left), result.ret) == ([left], [], 0)
    result.stdout.fnmatch_lines(["opensandbox: run *: 1 deleted, 0 left"])


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["for good", "dry"])
@pytest.mark.parametrize("run_id", ["unknown", "../last_run"])
def test_the_sweep_of_an_unknown_run_never_says_that_all_is_well(server, sweep, run_id, more):
    result = sweep("--run", run_id, *more)

    assert result.ret == 1
    result.stdout.fnmatch_lines(["opensandbox: *Name its server by --opensandbox-url, see the run's header"])
    result.stdout.no_fnmatch_line("* 0 left*")


@pytest.mark.parametrize("arguments", [(), ("--opensandbox-url=embedded",)], ids=["by default", "by a flag"])
def test_an_unknown_run_is_no_better_known_where_the_url_is_embedded(sweep, arguments):
    result = sweep("--run", "unknown", *arguments)

    assert result.ret == 1
    result.stdout.fnmatch_lines(["opensandbox: run unknown: nothing was swept, for its server is not known; *"])


def test_a_run_that_is_known_to_have_been_embedded_needs_no_sweep(pytester, sweep):
    pytester.makepyfile("def test_it(sandbox): pass")
    pytester.runpytest_subprocess()

    result = sweep("--run", "last")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["opensandbox: an embedded server takes its sandboxes along *"])


def test_dead_runs_on_a_server_are_remembered_by_an_embedded_run(server, sweep, run_by_flag, alive):
    result = sweep("--expired")

    assert (alive(run_by_flag[1]), result.ret) == ([run_by_flag[1]], 1)
    result.stdout.fnmatch_lines([f"opensandbox: nothing was swept: *; add --opensandbox-url={server.url}"])


def test_a_missing_key_is_named(sweep, run_by_flag, monkeypatch):
    monkeypatch.delenv("OPEN_SANDBOX_API_KEY")

    result = sweep("--run", "last")

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["opensandbox: nothing was swept: *401*", "  the key comes from OPEN_SANDBOX_API_KEY *"]
    )


def test_no_last_run_is_nothing_to_do(server, sweep):
    result = sweep("--run", "last")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["opensandbox: pytest's cache knows of no run with a sandbox in this directory"])


def test_the_server_is_the_one_that_the_ini_file_names(pytester, server, monkeypatch, sweep, create, alive):
    left = create({TAG_PROJECT: server.project, TAG_RUN: "killed"})
    monkeypatch.delenv("OPEN_SANDBOX_DOMAIN")
    pytester.makeini(f"[pytest]\nopensandbox_url = {server.url}")

    result = sweep("--run", "killed")

    assert (result.ret, alive(left)) == (0, [])


def test_a_server_that_is_not_there_is_an_error_without_a_traceback(sweep):
    result = sweep("--run", "killed", "--opensandbox-url=http://127.0.0.1:9")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["opensandbox: nothing was swept: *connection refused*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_embedded_sandboxes_need_no_sweep(sweep):
    result = sweep("--opensandbox-url=embedded")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["opensandbox: an embedded server takes its sandboxes along *"])


def test_leases_on_a_dead_server_of_a_run_are_known_to_nobody(sweep):
    result = sweep("--expired", "--opensandbox-url=docker")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *name a --run"])


@pytest.mark.parametrize("arguments", [("--run", "a", "--expired"), ("--run",), ("--run", ""), ("--no-such-option",)])
def test_wrong_arguments_are_usage_errors(sweep, arguments):
    result = sweep(*arguments)

    assert result.ret in (2, pytest.ExitCode.USAGE_ERROR)
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
