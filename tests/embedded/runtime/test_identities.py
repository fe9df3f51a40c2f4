"""The identity of a sandbox: the rights of its root over its own files, and none over the host's."""

import ctypes
import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_opensandbox.embedded.runtime.id_ranges import IdRanges
from pytest_opensandbox.embedded.runtime.private_mounts import PrivateMounts
from tests.embedded.machine import AS_ROOT, is_alive, running_server, wait_until
from tests.embedded.state.test_snapshots import restore, take

pytestmark = pytest.mark.thorough

SERVED_BY_ROOT = pytest.mark.skipif(not AS_ROOT, reason="only root can give a sandbox users of its own")


@pytest.fixture(scope="module")
def served_by_root():
    with running_server() as machine:
        yield machine


def ids_of(machine):
    """Return the users whose processes are in a server's sandboxes, the server's own left out."""
    found = set()
    for pid in machine.sandbox_pids():
        if is_alive(pid):
            found.add(os.stat(f"/proc/{pid}").st_uid)
    return found - {os.geteuid()}


@SERVED_BY_ROOT
def test_each_sandbox_of_root_has_other_users_outside():
    with running_server() as one, running_server() as other:
        for machine in (one, one, other):
            machine.create()

        ids = [*ids_of(one), *ids_of(other)]

    assert len(set(ids)) == 3
    assert min(ids) >= 0x78000000


@SERVED_BY_ROOT
def test_a_container_s_root_gives_its_sandboxes_users_as_well():
    """It lacks the right to mount, which a user namespace of the server's own gives it."""

    def be_without_the_right_to_mount():
        assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_ADMIN

    with running_server(before=be_without_the_right_to_mount) as machine:
        sandbox_id = machine.create()

        (ids,) = ids_of(machine)
        kept = restore(machine, take(machine, sandbox_id)["id"])

        assert ids >= 0x78000000
        assert machine.run(kept, "touch /root/f; chown 1000 /root/f; stat -c %u /root/f").stdout == "1000"


@SERVED_BY_ROOT
def test_device_nodes_are_protected_where_root_cannot_give_users():
    """Then root in a sandbox is the one who owns them: a chmod there would concern all users of the machine."""

    def try_to_mount():
        with pytest.raises(OSError, match="no directory to mount over"):
            PrivateMounts([f"{place}/needed" for place in ("/mnt", "/srv", "/media", "/home", "/var/tmp", "/tmp")])
        return {node: os.statvfs(f"/dev/{node}").f_flag & os.ST_RDONLY for node in ("null", "zero", "tty", "urandom")}

    with ThreadPoolExecutor(1) as starter:
        is_read_only = starter.submit(try_to_mount).result()

    assert all(is_read_only.values()), is_read_only
    assert not os.statvfs("/dev/null").f_flag & os.ST_RDONLY


@SERVED_BY_ROOT
def test_a_server_without_free_ids_refuses_to_start(tmp_path):
    """Its sandboxes would be root outside. Another process has all ids, in a /run of the server's own."""
    tmp_path.chmod(0o755)
    libc, private, bind = ctypes.CDLL(None), 0x44000, 0x1000

    def see_another_run():
        assert libc.unshare(0x20000) == 0
        assert libc.mount(None, b"/", None, ctypes.c_ulong(private), None) == 0
        assert libc.mount(os.fsencode(tmp_path), b"/run", None, ctypes.c_ulong(bind), None) == 0

    with open(tmp_path / "pytest-opensandbox-ids.lock", "w") as taken:
        fcntl.lockf(taken, fcntl.LOCK_EX)
        refused = subprocess.run(
            [sys.executable, "-m", "pytest_opensandbox.embedded"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            preexec_fn=see_another_run,
            cwd=Path(importlib.util.find_spec("pytest_opensandbox").origin).parents[1],
        )

    report = json.loads(refused.stdout)
    assert report["error"] == "there are no free user ids on this machine for a further sandbox"
    assert "end other servers" in report["cause"]
    assert refused.returncode == 1


@SERVED_BY_ROOT
def test_servers_share_no_range_of_ids():
    """Locks belong to a process, so the other server is a child."""
    mine = IdRanges().acquire()
    reading, writing = os.pipe()
    if os.fork() == 0:
        taken = [IdRanges().acquire().first for _ in range(3)]
        os.write(writing, b"shared" if mine.first in taken else b"other")
        os._exit(0)
    os.wait()

    assert os.read(reading, 10) == b"other"


def test_the_ids_of_a_sandbox_are_lent_again_when_it_has_gone():
    ids = IdRanges()
    first = ids.acquire()
    ids.acquire(first)
    ids.release(first)
    second = ids.acquire()
    ids.release(first)

    assert (second != first, ids.acquire()) == (True, first)


OWN = [
    pytest.param("echo 1 > f; chmod 444 f; echo 2 > f; cat f", "2", id="a read-only file is written"),
    pytest.param(
        "mkdir d; chmod 644 d; echo 1 > f; mv f d/f; chmod 000 d; cat d/f", "1", id="a closed directory is used"
    ),
    pytest.param("mkdir -p t/u; touch t/u/f; chmod -R 555 t; rm -rf t; ls", "", id="a read-only tree is removed"),
    pytest.param("touch f; chmod 000 f; chmod 751 f; stat -c %a f", "751", id="modes are changed"),
    pytest.param("touch f; touch -d @0 f; stat -c %Y f", "0", id="times are changed"),
]


@pytest.mark.parametrize(("command", "output"), OWN)
def test_root_inside_is_root_over_what_is_its_own(run, command, output):
    done = run(f"cd $(mktemp -d); {command}")

    assert (done.stdout.strip(), done.stderr) == (output, "")


@SERVED_BY_ROOT
def test_a_sandbox_of_root_has_other_users(served_by_root):
    sandbox_id = served_by_root.create()
    become = (
        "import os; os.setgroups([7]); os.setgid(5); os.setuid(1000); os.system('id -u; id -g; id -G; echo > /root/f')"
    )

    done = served_by_root.run(
        sandbox_id, f'touch /tmp/f; chown 1000:5 /tmp/f; stat -c %u:%g /tmp/f; python3 -c "{become}"'
    )

    assert done.stdout.split() == ["1000:5", "1000", "5", "5", "7"]
    assert "denied" in done.stderr


@SERVED_BY_ROOT
def test_nothing_of_the_host_s_root_is_the_sandbox_s(served_by_root):
    sandbox_id = served_by_root.create()

    done = served_by_root.run(
        sandbox_id, "chmod 666 /etc/passwd; chown 0 /usr/bin/env; echo >> /etc/passwd; cat /etc/shadow"
    )

    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 4


HOLD = """
import fcntl, os, sys, time
held = []
for place in sys.argv[1:]:
    try:
        held.append(os.open(place, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(held[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.fcntl(held[-1], fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        pass
open('/tmp/holds', 'w').close()
time.sleep(1000)
"""


def test_no_file_of_the_host_can_be_locked_or_leased(machine):
    libraries = {name: importlib.util.find_spec(name).origin for name in ("waitress", "python_multipart")}
    python = os.path.realpath(sys.executable)
    outside = [
        "/etc/passwd",
        "/usr/bin/env",
        "/var/lib/dpkg/status",
        "/usr/lib/os-release",
        *libraries.values(),
        python,
    ]
    sandbox_id = machine.create(env={"HOLD": HOLD})
    inside = (
        "/etc/passwd /usr/bin/env /var/lib/dpkg/status /usr/lib/os-release $(find /opt/opensandbox -type f) /proc/*/exe"
    )
    machine.run(sandbox_id, f'setsid python3 -c "$HOLD" {inside} > /dev/null 2>&1 &')
    assert wait_until(lambda: machine.run(sandbox_id, "ls /tmp/holds").exit_code == 0)

    for path in filter(os.path.exists, outside):
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        os.close(descriptor)
        inode = f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino} "
        assert not any(inode in line for line in Path("/proc/locks").read_text().splitlines()), path


@SERVED_BY_ROOT
def test_a_snapshot_keeps_the_owners_of_files(served_by_root):
    source = served_by_root.create()
    make = "cd /root; touch f; mkdir d; ln -s f l; mkfifo p; chown -h 1000:5 f d l p; chmod 4711 f; chmod 700 d"
    served_by_root.run(source, make)

    restored = restore(served_by_root, take(served_by_root, source)["id"])
    again = restore(served_by_root, take(served_by_root, restored)["id"])

    for sandbox_id in (restored, again):
        listed = served_by_root.run(sandbox_id, "cd /root; stat -c '%n %u:%g %a' *; echo x >> f; rm -r f d l p && ls")
        assert listed.stdout.splitlines() == ["d 1000:5 700", "f 1000:5 711", "l 1000:5 777", "p 1000:5 644"]


@SERVED_BY_ROOT
def test_a_snapshot_s_ids_are_not_those_of_a_new_sandbox(served_by_root):
    source = served_by_root.create()
    snapshot = take(served_by_root, source)
    served_by_root.client.delete_sandbox(source)
    before = ids_of(served_by_root)
    served_by_root.create()

    new = ids_of(served_by_root) - before
    restore(served_by_root, snapshot["id"])

    assert len(new) == 1
    assert len(ids_of(served_by_root) - before - new) == 1


@SERVED_BY_ROOT
def test_the_number_of_processes_is_bounded_for_all_users_of_a_sandbox(served_by_root):
    """The kernel counts the processes of all users of the namespace together."""
    threads = """
import os, sys, threading
os.setuid(int(sys.argv[1]))
threading.stack_size(65536)
stop, started = threading.Event(), 0
try:
    while started < 3000:
        threading.Thread(target=stop.wait).start()
        started += 1
except RuntimeError:
    pass
print(started, flush=True)
sys.stdin.read(1)
stop.set()"""
    sandbox_id = served_by_root.create(env={"THREADS": threads})
    both = (
        'mkfifo /tmp/p; for u in 1 2; do python3 -c "$THREADS" $u < /tmp/p & sleep 0.1; done > /tmp/n; exec 3> /tmp/p;'
    )

    counted = served_by_root.run(
        sandbox_id, f"{both} while [ $(wc -l < /tmp/n) != 2 ]; do sleep 0.1; done; exec 3>&-; wait; cat /tmp/n"
    )

    assert sum(map(int, counted.stdout.split())) <= 4104
