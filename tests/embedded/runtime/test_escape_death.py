"""Attempts of a sandbox to outlive its server, which is killed and can do nothing about it."""

import os
import platform
import signal

import pytest

from tests.embedded.machine import USERS, is_alive, running_server, wait_until

pytestmark = pytest.mark.thorough

LIVE_ON = "nohup setsid sh -c 'sleep 1000; true' > /dev/null 2>&1 &"
# Traces process 1 of its namespace, and makes it call prctl(PR_SET_PDEATHSIG, 0), which cancels what bubblewrap set.
FORGET = """
import ctypes, os
trace = ctypes.CDLL(None, use_errno=True).ptrace
trace.restype, trace.argtypes = ctypes.c_long, [ctypes.c_long] * 4
registers = (ctypes.c_ulonglong * 27)()
place = ctypes.addressof(registers)
ALL_CHILDREN = 0x40000000
trace(16, 1, 0, 0), os.waitpid(1, ALL_CHILDREN)
trace(12, 1, 0, place)
saved, at = list(registers), registers[16]
code = trace(1, 1, at, 0)
trace(4, 1, at, (code & ~0xFFFF) | 0x050F)
registers[10], registers[15], registers[14], registers[13] = 157, 2**64 - 1, 1, 0
trace(13, 1, 0, place), trace(9, 1, 0, 0), os.waitpid(1, ALL_CHILDREN)
trace(12, 1, 0, place)
print(registers[10])
registers[:] = saved
trace(4, 1, at, code), trace(13, 1, 0, place), trace(17, 1, 0, 0)
"""


@pytest.fixture(params=USERS)
def machine(request):
    with running_server(user=request.param) as machine:
        yield machine


def is_gone_with_the_server(machine):
    """Kill the server without warning, and say whether its sandboxes end."""
    pids = machine.sandbox_pids()
    assert len(pids) >= 4
    machine.process.kill()
    machine.process.wait()
    try:
        return wait_until(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the registers are those of x86_64")
def test_a_process_1_that_was_made_to_forget_its_parent_ends_with_it(machine):
    sandbox_id = machine.create(env={"FORGET": FORGET})
    machine.run(sandbox_id, LIVE_ON)

    forgot = machine.run(sandbox_id, 'python3 -c "$FORGET"')

    assert forgot.stdout == "0"
    assert is_gone_with_the_server(machine)


def test_stopped_processes_end_with_the_server(machine):
    sandbox_id = machine.create()
    machine.run(sandbox_id, f"{LIVE_ON} kill -STOP $!")

    assert is_gone_with_the_server(machine)


def test_a_paused_sandbox_ends_with_the_server(machine):
    sandbox_id = machine.create()
    machine.run(sandbox_id, LIVE_ON)
    machine.client.pause(sandbox_id)

    assert is_gone_with_the_server(machine)


def test_an_agent_that_is_kept_from_seeing_the_end_goes_with_it(machine):
    """The agent waits for the end of a pipe; a second writer prevents it."""
    sandbox_id = machine.create()
    hold = "for f in /proc/2/fd/*; do [ -p $f ] && exec {held}<>$f; done; exec sleep 1000"
    machine.run(sandbox_id, f"nohup setsid bash -c '{hold}' > /dev/null 2>&1 &")

    assert is_gone_with_the_server(machine)
