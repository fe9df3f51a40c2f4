"""What is asked of a server and of an agent while things go wrong, and what a correct answer is.

Each operation stops twice: before the proxy begins to spoil requests, and when it is healed. What follows that checks
the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from pytest_opensandbox import ApiError, ConflictError
from pytest_opensandbox.cleanup.targets import SandboxTarget
from pytest_opensandbox.sandbox.tracking import TAG_RUN
from tests.faults.bench import (
    COMMAND_SECONDS,
    CONTENT,
    CREATE_SECONDS,
    LOOKING_SECONDS,
    READY_SECONDS,
    REQUEST_SECONDS,
    Bench,
)

Steps = Callable[[Bench], Iterator[None]]

TRIES = 4
"""How often an idempotent request is sent at the most."""
ANSWER_SECONDS = 3 * REQUEST_SECONDS
"""What one answer may take: its head, and its body, which the tests give twice as long."""
ASKING_SECONDS = TRIES * ANSWER_SECONDS
"""What an idempotent request may take."""


@dataclass(frozen=True)
class Operation:
    """One operation."""

    steps: Steps
    """What is done."""
    seconds: float
    """What it may take, by the time limits that were configured."""
    requests: int = 1
    """How many it makes at least, where all is well."""
    counts: bool = False
    """Whether it runs a command that must never run twice."""


OPERATIONS: dict[str, Operation] = {}
"""All operations by name."""


def operation(name: str, *, seconds: float, requests: int = 1, counts: bool = False) -> Callable[[Steps], Steps]:
    """Enter an operation into the table."""

    def enter(steps: Steps) -> Steps:
        OPERATIONS[name] = Operation(steps, seconds, requests, counts)
        return steps

    return enter


@operation("create", seconds=CREATE_SECONDS + ANSWER_SECONDS)
def create(bench: Bench) -> Iterator[None]:
    yield
    made = bench.client.create_sandbox(bench.opts)
    yield
    assert bench.alive() == [made.id]


@operation("launch", seconds=CREATE_SECONDS + LOOKING_SECONDS + 2 * READY_SECONDS + 2 * ASKING_SECONDS, requests=3)
def launch(bench: Bench) -> Iterator[None]:
    yield
    sandbox = bench.launch()
    yield
    assert bench.alive() == [sandbox.id]
    assert sandbox.run("echo ready").stdout == "ready\n"


@operation("get", seconds=ASKING_SECONDS)
def get(bench: Bench) -> Iterator[None]:
    yield
    found = bench.client.get_sandbox(bench.sandbox.id)
    yield
    assert (found.id, found.state, dict(found.metadata)) == (bench.sandbox.id, "Running", dict(bench.sandbox.metadata))


@operation("list", seconds=ASKING_SECONDS)
def list_(bench: Bench) -> Iterator[None]:
    made = {bench.truth.create_sandbox(bench.opts).id for _ in range(2)}
    yield
    found = bench.client.list_sandboxes({TAG_RUN: bench.run_id})
    yield
    assert {sandbox.id for sandbox in found} == made


@operation("delete", seconds=ASKING_SECONDS)
def delete(bench: Bench) -> Iterator[None]:
    made = bench.truth.create_sandbox(bench.opts)
    yield
    bench.client.delete_sandbox(made.id)
    yield
    assert bench.alive() == []


@operation("sweep", seconds=2.0 + 2.0 + ANSWER_SECONDS, requests=2)
def sweep_(bench: Bench) -> Iterator[None]:
    for _ in range(2):
        bench.truth.create_sandbox(bench.opts)
    yield
    report = SandboxTarget(bench.client, run_id=bench.run_id).sweep(budget_seconds=2.0)
    yield
    assert len(bench.alive()) == 0 if not report.error else len(bench.alive()) <= 2


@operation("wait_ready", seconds=READY_SECONDS + 1, requests=2)
def wait_ready(bench: Bench) -> Iterator[None]:
    made = bench.truth.create_sandbox(bench.opts)
    yield
    ready, endpoint = bench.client.wait_ready_endpoint(made.id, timeout=READY_SECONDS)
    yield
    assert ready.id == made.id
    bench.client.ping(endpoint)


@operation("endpoint", seconds=ASKING_SECONDS)
def endpoint_(bench: Bench) -> Iterator[None]:
    yield
    endpoint = bench.client.get_endpoint(bench.sandbox.id, 44772)
    yield
    assert endpoint == bench.agent


@operation("renew", seconds=ASKING_SECONDS)
def renew(bench: Bench) -> Iterator[None]:
    made = bench.truth.create_sandbox(bench.opts)
    yield
    end = bench.client.renew(made.id, 3000)
    yield
    assert abs((bench.truth.get_sandbox(made.id).expires_at - end).total_seconds()) < 0.1


@operation("patch_metadata", seconds=ASKING_SECONDS)
def patch_metadata(bench: Bench) -> Iterator[None]:
    made = bench.truth.create_sandbox(bench.opts)
    yield
    patched = bench.client.patch_metadata(made.id, {"colour": "green"})
    yield
    expected = {TAG_RUN: bench.run_id, "colour": "green"}
    assert patched.metadata == bench.truth.get_sandbox(made.id).metadata == expected


@operation("diagnostics", seconds=ASKING_SECONDS)
def diagnostics(bench: Bench) -> Iterator[None]:
    yield
    text = bench.client.diagnostics(bench.sandbox.id, "events")
    yield
    assert bench.sandbox.id in text
    assert text == bench.truth.diagnostics(bench.sandbox.id, "events")


@operation("pause and resume", seconds=2 * ANSWER_SECONDS + 2 * READY_SECONDS + ASKING_SECONDS, requests=4)
def pause(bench: Bench) -> Iterator[None]:
    sandbox = bench.launch()
    yield
    sandbox.pause(timeout=READY_SECONDS)
    sandbox.resume()
    yield
    assert sandbox.run("echo again").stdout == "again\n"


@operation("snapshots", seconds=ANSWER_SECONDS + 3 * ASKING_SECONDS, requests=2)
def snapshots(bench: Bench) -> Iterator[None]:
    sandbox = bench.launch()
    try:
        yield
        with suppress(ConflictError):
            bench.client.create_snapshot(sandbox.id, bench.run_id)
        found = bench.client.list_snapshots(sandbox.id)
        yield
        assert {snapshot.name for snapshot in found} == {bench.run_id}
    except ApiError as exc:
        if exc.status != 501:
            raise
        yield
    finally:
        bench.proxy.heal()
        with suppress(ApiError):
            for snapshot in bench.truth.list_snapshots(sandbox.id):
                bench.truth.wait_snapshot_ready(snapshot.id)
                bench.truth.delete_snapshot(snapshot.id)


@operation("ping", seconds=ANSWER_SECONDS)
def ping(bench: Bench) -> Iterator[None]:
    yield
    bench.client.ping(bench.agent, timeout=REQUEST_SECONDS)
    yield


@operation("run_command", seconds=COMMAND_SECONDS + ASKING_SECONDS, counts=True)
def run_command(bench: Bench) -> Iterator[None]:
    command = bench.counting("seq 3; echo wrong >&2; exit 3")
    yield
    result = bench.client.run_command(bench.agent, command, timeout=COMMAND_SECONDS)
    yield
    assert (result.exit_code, result.stdout, result.stderr) == (3, "1\n2\n3", "wrong")


@operation("run", seconds=COMMAND_SECONDS + ASKING_SECONDS, counts=True)
def run(bench: Bench) -> Iterator[None]:
    command = bench.counting("printf 'a\\0b\\r\\n\\377'; printf wrong >&2; exit 3")
    yield
    result = bench.sandbox.run(command)
    yield
    assert (result.exit_code, result.exact, result.truncated) == (3, True, False)
    assert (result.stdout_bytes, result.stderr_bytes) == (b"a\0b\r\n\xff", b"wrong")


@operation("run, long output", seconds=COMMAND_SECONDS + 4 * ASKING_SECONDS, counts=True, requests=3)
def run_long(bench: Bench) -> Iterator[None]:
    command = bench.counting("seq 20000; seq 7 >&2; exit 3")
    yield
    result = bench.sandbox.run(command)
    yield
    expected = "".join(f"{number}\n" for number in range(1, 20001))
    assert (result.exit_code, result.exact, result.truncated) == (3, True, False)
    assert (result.stdout, result.stderr) == (expected, "1\n2\n3\n4\n5\n6\n7\n")


@operation("run, with input", seconds=COMMAND_SECONDS + 3 * ASKING_SECONDS, counts=True, requests=2)
def run_input(bench: Bench) -> Iterator[None]:
    command = bench.counting("cat; exit 3")
    content = CONTENT * 10  # travels as a file
    yield
    result = bench.sandbox.run(command, input=content)
    yield
    assert (result.exit_code, result.stdout_bytes) == (3, content)


@operation("run, with callbacks", seconds=COMMAND_SECONDS + ASKING_SECONDS, counts=True)
def run_live(bench: Bench) -> Iterator[None]:
    seen: list[str] = []
    command = bench.counting("seq 3; echo wrong >&2; exit 3")
    yield
    result = bench.sandbox.run(command, on_stdout=seen.append)
    yield
    assert (result.exit_code, result.exact) == (3, True)
    assert (result.stdout, result.stderr) == ("1\n2\n3\n", "wrong\n")
    assert seen == ["1", "2", "3"]


@operation("put bytes", seconds=2 * ASKING_SECONDS, requests=2)
def put_bytes(bench: Bench) -> Iterator[None]:
    path = f"/tmp/put/{bench.run_id}"
    yield
    bench.sandbox.put(CONTENT, path)
    yield
    assert bench.truth.download_file(bench.direct, path).read() == CONTENT


@operation("put tree", seconds=COMMAND_SECONDS + 4 * ASKING_SECONDS, requests=4)
def put_tree(bench: Bench) -> Iterator[None]:
    for name in ("a", "sub/b", "sub/c"):
        (bench.scratch / name).parent.mkdir(exist_ok=True)
        (bench.scratch / name).write_bytes(CONTENT)
    path = f"/tmp/put/{bench.run_id}"
    yield
    bench.sandbox.put(bench.scratch, path)
    yield
    for name in ("a", "sub/b", "sub/c"):
        assert bench.truth.download_file(bench.direct, f"{path}/{name}").read() == CONTENT


@operation("get bytes", seconds=2 * ASKING_SECONDS, requests=3)
def get_bytes(bench: Bench) -> Iterator[None]:
    yield
    content = bench.sandbox.get("/tmp/kept/one.bin")
    yield
    assert content == CONTENT


@operation("get file", seconds=3 * ASKING_SECONDS, requests=4)
def get_file(bench: Bench) -> Iterator[None]:
    yield
    path = bench.sandbox.get("/tmp/kept/one.bin", bench.scratch / "one")
    yield
    assert path.read_bytes() == CONTENT


@operation("get tree", seconds=COMMAND_SECONDS + 4 * ASKING_SECONDS, requests=5)
def get_tree(bench: Bench) -> Iterator[None]:
    yield
    path = bench.sandbox.get("/tmp/kept", bench.scratch / "tree")
    yield
    assert {str(file.relative_to(path)) for file in path.rglob("*")} == {"one.bin", "deep", "deep/two.bin"}
    assert (path / "one.bin").read_bytes() == (path / "deep/two.bin").read_bytes() == CONTENT


@operation("search", seconds=ASKING_SECONDS)
def search(bench: Bench) -> Iterator[None]:
    yield
    found = bench.client.search_files(bench.agent, "/tmp/kept", "*.bin")
    yield
    assert sorted((info.path, info.size) for info in found) == [
        ("/tmp/kept/deep/two.bin", len(CONTENT)),
        ("/tmp/kept/one.bin", len(CONTENT)),
    ]
