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


class FakeSandbox:
    """A sandbox that records what the setup does in it."""

    def __init__(self, fake_run, opts, image):
        self.id, self.image, self.prepared_by = f"s{len(fake_run.sandboxes) + 1}", image or opts.image, ""
        self.snapshot_id = opts.snapshot_id
        self.done = []
        self.closed = False
        self._fake_run = fake_run

    def put(self, source, target):
        self.done.append(f"put {target}")

    def run(self, command, *, check, timeout):
        assert check
        self.done.append(f"{command} within {timeout:g} s")
        if self._fake_run.run_error:
            raise self._fake_run.run_error

    def snapshot(self, name):
        if self._fake_run.snapshot_error:
            raise self._fake_run.snapshot_error
        self._fake_run.snapshots += 1
        return SimpleNamespace(id=f"p{self._fake_run.snapshots}")


class FakeRun:
    """A run with one process or more, and the sandboxes of all of them."""

    def __init__(self, *, run_error=None, snapshot_error=None):
        self.run_error, self.snapshot_error = run_error, snapshot_error
        self.sandboxes = []
        self.snapshots = 0
        self.store = SharedStore()
        self.cache = self.process()

    def process(self):
        return SetupCache(
            SharedStore(self.store.path),
            progress=Progress(None),
            discard=lambda sandbox: setattr(sandbox, "closed", True),
        )

    def launch(self, opts, *, image=""):
        self.sandboxes.append(FakeSandbox(self, opts, image))
        return self.sandboxes[-1]

    def make(self, opts=OPTS, setup=SETUP, *, process=None, scope=""):
        return (process or self.cache).acquire(opts, setup, self.launch, scope=scope)


@pytest.fixture
def fake_run(request):
    fake_run = FakeRun(**getattr(request, "param", {}))
    yield fake_run
    fake_run.store.clear()


def failing(**errors):
    """Run a test with a run in which something fails."""
    return pytest.mark.parametrize("fake_run", [errors], indirect=True, ids=[""])


def test_a_sandbox_is_set_up_once_and_others_are_restored_from_it(fake_run):
    sandboxes = [fake_run.make(), fake_run.make()]

    builder = fake_run.sandboxes[0]
    assert builder.done == ["make within 7 s", "make install within 7 s"]
    assert builder.closed
    assert [(sandbox.snapshot_id, sandbox.image, sandbox.done) for sandbox in sandboxes] == [("p1", "base:1", [])] * 2
    assert {sandbox.prepared_by for sandbox in sandboxes} == {"make; make install"}
    assert (fake_run.cache.tally.built, fake_run.cache.tally.restored) == (1, 2)


def test_another_process_of_the_run_takes_what_is_there(fake_run):
    fake_run.make()
    other = fake_run.process()

    sandbox = fake_run.make(process=other)

    assert sandbox.snapshot_id == "p1"
    assert fake_run.snapshots == 1
    assert other.tally == SetupTally(restored=1)


def test_a_process_with_a_server_of_its_own_builds_for_itself(fake_run):
    fake_run.make(process=fake_run.process(), scope="gw0-0")
    fake_run.make(process=fake_run.process(), scope="gw1-0")

    assert fake_run.snapshots == 2


@pytest.mark.parametrize(
    "opts",
    [
        pytest.param(SandboxOpts(image="other:2"), id="image"),
        pytest.param(SandboxOpts(image="base:1", env={"A": "1"}), id="environment"),
        pytest.param(SandboxOpts(image="base:1", resource_limits={"cpu": "2"}), id="limits"),
        pytest.param(SandboxOpts(image="base:1", entrypoint=["sleep", "inf"]), id="entrypoint"),
    ],
)
def test_what_changes_the_result_is_another_build(fake_run, opts):
    fake_run.make()

    fake_run.make(opts)

    assert fake_run.snapshots == 2


def test_labels_and_leases_change_nothing(fake_run):
    fake_run.make()

    fake_run.make(SandboxOpts(image="base:1", metadata={"a": "b"}, timeout=90))

    assert fake_run.snapshots == 1


def test_files_alone_are_copied_and_not_kept(fake_run, tmp_path):
    (tmp_path / "file").touch()

    sandbox = fake_run.make(setup=SandboxSetup(files=((tmp_path / "file", "/in/file"),)))

    assert (sandbox.done, fake_run.snapshots) == (["put /in/file"], 0)
    assert fake_run.cache.tally == SetupTally()


@failing(snapshot_error=ApiError(501, code="SNAPSHOT::NOT_IMPLEMENTED", message="no snapshots here"))
def test_without_snapshots_the_setup_runs_in_each_and_none_is_wasted(fake_run):
    sandboxes = [fake_run.make(), fake_run.make(), fake_run.make(process=fake_run.process())]

    assert sandboxes == fake_run.sandboxes
    assert all(len(sandbox.done) == 2 and not sandbox.closed for sandbox in sandboxes)
    assert fake_run.cache.tally.repeated == 2
    assert fake_run.cache.tally.reasons == ("no snapshots here (501 SNAPSHOT::NOT_IMPLEMENTED)",)


def test_a_pool_restores_nothing_and_is_not_asked(fake_run):
    opts = SandboxOpts(extensions={"poolRef": "fast"}, resource_limits={})

    sandboxes = [fake_run.make(opts), fake_run.make(opts)]

    assert sandboxes == fake_run.sandboxes
    assert (fake_run.snapshots, fake_run.cache.tally.reasons) == (0, ("a pool restores no snapshots",))


@pytest.mark.parametrize(
    ("fake_run", "kind"),
    [
        pytest.param({"run_error": CommandError("make", exit_code=2)}, SetupError, id="the command fails"),
        pytest.param({"run_error": CommandTimeoutError("make", timeout_seconds=7)}, SetupError, id="too slow"),
        pytest.param(
            {"snapshot_error": SnapshotFailedError(sandbox_id="s1")}, SnapshotFailedError, id="snapshot fails"
        ),
        pytest.param({"snapshot_error": ApiError(500, message="x")}, SnapshotFailedError, id="snapshot refused"),
    ],
    indirect=["fake_run"],
)
def test_what_would_fail_again_is_not_tried_again(fake_run, kind):
    for process in (fake_run.cache, fake_run.cache, fake_run.process()):
        with pytest.raises(kind):
            fake_run.make(process=process)

    assert len(fake_run.sandboxes) == 1
    assert fake_run.sandboxes[0].closed


@failing(run_error=CommandError("make", exit_code=-9, stderr="Killed"))
def test_a_setup_error_names_the_signal_and_the_image(fake_run):
    with pytest.raises(SetupError, match="'make' was ended by signal 9 as setup of the sandboxes from base:1"):
        fake_run.make()


@failing(run_error=TransportError("cut", method="POST", url="http://h"))
def test_an_error_that_may_pass_is_tried_again(fake_run):
    for _ in range(2):
        with pytest.raises(TransportError):
            fake_run.make()

    assert [sandbox.closed for sandbox in fake_run.sandboxes] == [True, True]


@failing(run_error=KeyboardInterrupt())
def test_an_interrupt_leaves_no_sandbox_and_no_verdict(fake_run):
    with pytest.raises(KeyboardInterrupt):
        fake_run.make()
    fake_run.run_error = None

    assert fake_run.sandboxes[0].closed
    assert fake_run.make().snapshot_id == "p1"
