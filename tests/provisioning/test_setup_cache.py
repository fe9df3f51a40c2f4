"""One build for all, and what happens where there cannot be one."""

from types import SimpleNamespace

import pytest

from pytest_opensandbox import ApiError, CommandError, CommandTimeoutError, SetupError, SnapshotFailedError
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import TransportError
from pytest_opensandbox.provisioning.setup import SandboxSetup
from pytest_opensandbox.provisioning.setup_cache import SetupCache
from pytest_opensandbox.provisioning.shared_store import SharedStore
from pytest_opensandbox.sandbox.progress import Progress
from pytest_opensandbox.sandbox.tracking import SetupTally

OPTS = SandboxOpts(image="base:1")
SETUP = SandboxSetup(commands=("make", "make install"), timeout=7)


class Box:
    """What a preparation asks of a sandbox; it notes what was done to it."""

    def __init__(self, world, opts, image):
        self.id, self.image, self.prepared_by = f"s{len(world.boxes) + 1}", image or opts.image, ""
        self.snapshot_id = opts.snapshot_id
        self.done = []
        self.closed = False
        self._world = world

    def put(self, source, target):
        self.done.append(f"put {target}")

    def run(self, command, *, check, timeout):
        assert check
        self.done.append(f"{command} within {timeout:g} s")
        if self._world.run_error:
            raise self._world.run_error

    def snapshot(self, name):
        if self._world.snapshot_error:
            raise self._world.snapshot_error
        self._world.snapshots += 1
        return SimpleNamespace(id=f"p{self._world.snapshots}")


class World:
    """A run with one process or more, and the sandboxes of all of them."""

    def __init__(self, *, run_error=None, snapshot_error=None):
        self.run_error, self.snapshot_error = run_error, snapshot_error
        self.boxes = []
        self.snapshots = 0
        self.store = SharedStore()
        self.prepared = self.process()

    def process(self):
        return SetupCache(
            SharedStore(self.store.path),
            progress=Progress(None),
            discard=lambda box: setattr(box, "closed", True),
        )

    def launch(self, opts, *, image=""):
        self.boxes.append(Box(self, opts, image))
        return self.boxes[-1]

    def make(self, opts=OPTS, preparation=SETUP, *, process=None, scope=""):
        return (process or self.prepared).acquire(opts, preparation, self.launch, scope=scope)


@pytest.fixture
def world(request):
    world = World(**getattr(request, "param", {}))
    yield world
    world.store.clear()


def trouble(**errors):
    """Parametrise the world."""
    return pytest.mark.parametrize("world", [errors], indirect=True, ids=[""])


def test_a_sandbox_is_prepared_once_and_others_are_restored_from_it(world):
    boxes = [world.make(), world.make()]

    builder = world.boxes[0]
    assert builder.done == ["make within 7 s", "make install within 7 s"]
    assert builder.closed
    assert [(box.snapshot_id, box.image, box.done) for box in boxes] == [("p1", "base:1", [])] * 2
    assert {box.prepared_by for box in boxes} == {"make; make install"}
    assert (world.prepared.tally.built, world.prepared.tally.restored) == (1, 2)


def test_another_process_of_the_run_takes_what_is_there(world):
    world.make()
    other = world.process()

    box = world.make(process=other)

    assert box.snapshot_id == "p1"
    assert world.snapshots == 1
    assert other.tally == SetupTally(restored=1)


def test_a_process_with_a_server_of_its_own_builds_for_itself(world):
    world.make(process=world.process(), scope="gw0-0")
    world.make(process=world.process(), scope="gw1-0")

    assert world.snapshots == 2


@pytest.mark.parametrize(
    "opts",
    [
        pytest.param(SandboxOpts(image="other:2"), id="image"),
        pytest.param(SandboxOpts(image="base:1", env={"A": "1"}), id="environment"),
        pytest.param(SandboxOpts(image="base:1", resource_limits={"cpu": "2"}), id="limits"),
        pytest.param(SandboxOpts(image="base:1", entrypoint=["sleep", "inf"]), id="entrypoint"),
    ],
)
def test_what_changes_the_result_is_another_build(world, opts):
    world.make()

    world.make(opts)

    assert world.snapshots == 2


def test_labels_and_leases_change_nothing(world):
    world.make()

    world.make(SandboxOpts(image="base:1", metadata={"a": "b"}, timeout=90))

    assert world.snapshots == 1


def test_files_alone_are_copied_and_not_kept(world, tmp_path):
    (tmp_path / "file").touch()

    box = world.make(preparation=SandboxSetup(files=((tmp_path / "file", "/in/file"),)))

    assert (box.done, world.snapshots) == (["put /in/file"], 0)
    assert world.prepared.tally == SetupTally()


@trouble(snapshot_error=ApiError(501, code="SNAPSHOT::NOT_IMPLEMENTED", message="no snapshots here"))
def test_without_snapshots_the_setup_runs_in_each_and_none_is_wasted(world):
    boxes = [world.make(), world.make(), world.make(process=world.process())]

    assert boxes == world.boxes
    assert all(len(box.done) == 2 and not box.closed for box in boxes)
    assert world.prepared.tally.repeated == 2
    assert world.prepared.tally.reasons == ("no snapshots here (501 SNAPSHOT::NOT_IMPLEMENTED)",)


def test_a_pool_restores_nothing_and_is_not_asked(world):
    opts = SandboxOpts(extensions={"poolRef": "fast"}, resource_limits={})

    boxes = [world.make(opts), world.make(opts)]

    assert boxes == world.boxes
    assert (world.snapshots, world.prepared.tally.reasons) == (0, ("a pool restores no snapshots",))


@pytest.mark.parametrize(
    ("world", "kind"),
    [
        pytest.param({"run_error": CommandError("make", exit_code=2)}, SetupError, id="the command fails"),
        pytest.param({"run_error": CommandTimeoutError("make", timeout_seconds=7)}, SetupError, id="too slow"),
        pytest.param(
            {"snapshot_error": SnapshotFailedError(sandbox_id="s1")}, SnapshotFailedError, id="snapshot fails"
        ),
        pytest.param({"snapshot_error": ApiError(500, message="x")}, SnapshotFailedError, id="snapshot refused"),
    ],
    indirect=["world"],
)
def test_what_would_fail_again_is_not_tried_again(world, kind):
    for process in (world.prepared, world.prepared, world.process()):
        with pytest.raises(kind):
            world.make(process=process)

    assert len(world.boxes) == 1
    assert world.boxes[0].closed


@trouble(run_error=CommandError("make", exit_code=-9, stderr="Killed"))
def test_a_setup_error_names_the_signal_and_the_image(world):
    with pytest.raises(SetupError, match="'make' was ended by signal 9 as setup of the sandboxes from base:1"):
        world.make()


@trouble(run_error=TransportError("cut", method="POST", url="http://h"))
def test_trouble_that_may_pass_is_tried_again(world):
    for _ in range(2):
        with pytest.raises(TransportError):
            world.make()

    assert [box.closed for box in world.boxes] == [True, True]


@trouble(run_error=KeyboardInterrupt())
def test_an_interrupt_leaves_no_sandbox_and_no_verdict(world):
    with pytest.raises(KeyboardInterrupt):
        world.make()
    world.run_error = None

    assert world.boxes[0].closed
    assert world.make().snapshot_id == "p1"
