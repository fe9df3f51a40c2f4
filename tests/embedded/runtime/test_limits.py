"""Limits of memory, and which process the kernel ends when memory runs out."""

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_opensandbox import OpenSandboxError
from pytest_opensandbox.embedded.runtime.limits import usable_bytes
from tests.embedded.machine import USERS, running_server, wait_until

MIB = 1 << 20
V1_MOUNT = "30 20 0:25 / {place} rw,relatime - cgroup cgroup rw,memory"
V2_MOUNT = "30 20 0:25 {root} {place} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def proc(tmp_path):
    """Creates a /proc whose process is in control groups, and the files of these groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)

    def make(cgroup, mountinfo, limits):
        for path, text in limits.items():
            file = tmp_path / "groups" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
        place = str(tmp_path / "groups").replace(" ", "\\040")
        (tmp_path / "proc" / "self" / "mountinfo").write_text(mountinfo.format(place=place, root="/") + "\n")
        return tmp_path / "proc"

    return make


def test_the_limit_of_a_group_counts(proc):
    there = proc("0::/a/b\n", V2_MOUNT, {"a/b/memory.max": f"{600 * MIB}\n"})

    assert usable_bytes(there) == 600 * MIB


def test_the_limit_of_a_group_around_it_counts_where_it_is_smaller(proc):
    there = proc("0::/a/b\n", V2_MOUNT, {"a/b/memory.max": "max\n", "a/memory.max": f"{500 * MIB}\n"})

    assert usable_bytes(there) == 500 * MIB


def test_the_mark_at_which_a_group_is_slowed_down_counts(proc):
    there = proc("0::/a\n", V2_MOUNT, {"a/memory.max": f"{600 * MIB}\n", "a/memory.high": f"{400 * MIB}\n"})

    assert usable_bytes(there) == 400 * MIB


def test_the_first_version_of_groups_counts_as_well(proc):
    cgroup = "9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/\n"
    there = proc(cgroup, V1_MOUNT, {"a/memory.limit_in_bytes": f"{300 * MIB}\n"})

    assert usable_bytes(there) == 300 * MIB


@pytest.mark.parametrize("path", ["/docker/0123", "/../other", "/"])
def test_a_container_s_own_group_counts_whatever_its_path_outside_is(proc, path):
    there = proc(f"0::{path}\n", V2_MOUNT.replace("{root}", "/docker/0123"), {"memory.max": f"{700 * MIB}\n"})

    assert usable_bytes(there) == 700 * MIB


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n", ""])
def test_without_a_limit_the_machine_s_memory_counts(proc, limit):
    assert usable_bytes(proc("0::/a\n", V2_MOUNT, {"a/memory.max": limit})) == PHYSICAL


def test_without_groups_the_machine_s_memory_counts(tmp_path):
    assert usable_bytes(tmp_path) == PHYSICAL


def limited_group():
    """Create a control group of 320 MiB, in either version; None where that is impossible."""
    for top, limit in (("memory", "memory.limit_in_bytes"), ("unified", "memory.max"), (".", "memory.max")):
        group = Path("/sys/fs/cgroup", top, f"pytest-opensandbox-{uuid.uuid4()}")
        with suppress(OSError):
            group.mkdir()
            with suppress(OSError):
                (group / limit).write_text(str(320 * MIB))
                for name in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
                    with suppress(OSError):
                        (group / name).write_text(str(320 * MIB) if "memsw" in name else "0")
                (group / "cgroup.procs").chmod(0o666)
                return group
            group.rmdir()
    return None


@pytest.fixture(scope="module", params=USERS)
def small_machine(request):
    """A server that may use 320 MiB with all its sandboxes."""
    group = limited_group()
    if group is None:
        pytest.skip("no control group with a limit can be made here, which takes root")
    try:
        procs = group / "cgroup.procs"
        with running_server(user=request.param, before=lambda: procs.write_text(str(os.getpid()))) as server:
            yield server
    finally:
        assert wait_until(lambda: not procs.read_text())
        for _ in range(100):  # the kernel lets go of a group a little after its last process
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


@pytest.fixture(scope="module", params=USERS)
def any_machine(request):
    with running_server(user=request.param) as server:
        yield server


def test_the_limit_of_the_server_s_group_bounds_what_a_sandbox_writes(small_machine):
    sandbox_id = small_machine.create()

    filled = small_machine.run(
        sandbox_id,
        "head -c 2000M /dev/zero > /tmp/fill; status=$?; size=$(stat -c %s /tmp/fill); rm /tmp/fill; "
        "echo $status $size",
    )

    status, size = map(int, filled.stdout.split())
    assert status != 0
    assert 80 * MIB <= size <= 160 * MIB
    small_machine.client.delete_sandbox(sandbox_id)


def test_shared_memory_counts_together_with_all_else_that_is_written(small_machine):
    sandbox_id = small_machine.create()

    filled = small_machine.run(
        sandbox_id,
        "head -c 90M /dev/zero > /dev/shm/half; "
        "head -c 90M /dev/zero > /tmp/half; status=$?; rm /dev/shm/half /tmp/half; echo $status",
    )

    assert filled.stdout == "1"
    small_machine.client.delete_sandbox(sandbox_id)


MAPPED = "python3 -c 'bytearray(1 << 30)'"
# Files in memory that no process has mapped: they count for no process, so that ending the largest frees nothing.
UNMAPPED = """python3 -c '
import os
file, data = os.memfd_create("flood"), bytes(1 << 20)
while True: os.write(file, data)'"""


@pytest.mark.parametrize("flood", [pytest.param(MAPPED, id="mapped"), pytest.param(UNMAPPED, id="not mapped")])
def test_a_flood_of_memory_ends_its_command_and_not_the_server(small_machine, flood):
    flooded, other = small_machine.create(), small_machine.create()

    with suppress(OpenSandboxError):  # the agent may go first
        assert small_machine.run(flooded, flood).signal == "SIGKILL"

    assert small_machine.process.poll() is None
    assert small_machine.run(small_machine.create(), "echo here").stdout == "here"
    for sandbox_id in (flooded, other):
        small_machine.client.delete_sandbox(sandbox_id)


# Segments of System V stay when the process that made them has gone; only the sandbox's end frees them.
STAYING = """while :; do python3 -c '
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
while True:
    place = libc.shmat(libc.shmget(0, 1 << 20, 0o1600), None, 0)
    ctypes.memset(place, 1, 1 << 20)
    libc.shmdt(ctypes.c_void_p(place))'; done"""


def test_a_sandbox_that_memory_ran_out_for_says_so(small_machine):
    flooded = small_machine.create()

    def message():
        return small_machine.client.get_sandbox(flooded).message

    with suppress(OpenSandboxError):
        small_machine.run(flooded, STAYING)

    assert wait_until(lambda: "exited with code 137, out of memory" in message())
    assert "memory ran out" in small_machine.client.diagnostics(flooded, "logs")
    assert "OOMKilled" in small_machine.client.diagnostics(flooded, "events")
    assert small_machine.process.poll() is None
    small_machine.client.delete_sandbox(flooded)


@pytest.mark.parametrize("process", ["self", "1", "2"])
def test_no_process_can_save_itself_from_going_first(any_machine, process):
    sandbox_id = any_machine.create()

    lowered = any_machine.run(sandbox_id, f"echo 0 > /proc/{process}/oom_score_adj")

    assert lowered.exit_code != 0
    scores = any_machine.run(sandbox_id, "cat /proc/[0-9]*/oom_score_adj").stdout.split()
    assert set(scores) == {"1000"}


def test_the_server_does_not_go_first(any_machine):
    def score(pid):
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert score(any_machine.process.pid) == score("self")
