"""A server and its sandboxes start in a defined state, whatever the state of the process that starts the server."""

import ctypes
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.embedded.machine import AS_ROOT, running_server

pytestmark = pytest.mark.thorough

MIB = 1 << 20
IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGRTMIN,
)
SOFT = {
    resource.RLIMIT_CPU: 500,
    resource.RLIMIT_DATA: 4096 * MIB,
    resource.RLIMIT_FSIZE: 300 * MIB,
    resource.RLIMIT_NOFILE: 512,
    resource.RLIMIT_STACK: 4 * MIB,
}
ADDR_NO_RANDOMIZE = 0x0040000


def change_state():
    """Ignore and block signals, be nice, and lower what can be lowered."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM])
    os.umask(0o077)
    os.nice(7)
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)
    for kind, soft in SOFT.items():
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


@pytest.fixture(scope="module")
def odd(user):
    with running_server(user=user, before=change_state) as machine:
        yield machine


@pytest.fixture(scope="module")
def run(odd):
    sandbox_id = odd.create()
    return lambda command: odd.run(sandbox_id, command)


def status_of(text):
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


# The script reads a file of the kernel without a shell between, which has handlers of its own.
@pytest.mark.parametrize("process", ["self", "2"])
def test_signals_have_their_default_meaning_in_a_sandbox(run, process):
    status = status_of(run(f"exec cat /proc/{process}/status").stdout)
    # The agent is Python, which leaves writing to a closed pipe and beyond a limit to its callers.
    ignored = 0 if process == "self" else 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1

    # Signals 32 and 33 belong to glibc, whose posix_spawn ignores them in the child; Python 3.13 uses that.
    known = sum(1 << number - 1 for number in signal.valid_signals())
    assert int(status["SigIgn"], 16) & known == ignored
    assert int(status["SigBlk"], 16) == 0


def test_the_umask_is_that_of_a_container(run):
    assert run("umask").stdout == "0022"
    assert run("mkdir -p /tmp/new && stat -c %a /tmp/new /usr /etc").stdout.split() == ["755"] * 3


def test_niceness_is_none_where_it_can_be_taken_back(run, user):
    may_be_raised = AS_ROOT and user is None

    assert int(run("nice").stdout) == (0 if may_be_raised else os.nice(0) + 7)


def test_addresses_are_random(run):
    assert run("cat /proc/self/personality").stdout.strip() == "00000000"


LIMITS = """python3 -c '
import resource
for name in ("CPU", "DATA", "FSIZE", "NOFILE", "STACK", "NICE", "RTPRIO", "MSGQUEUE"):
    print(name, *resource.getrlimit(getattr(resource, "RLIMIT_" + name)))'"""


def test_limits_are_those_of_a_sandbox(run):
    limits = {name: (int(soft), int(hard)) for name, soft, hard in map(str.split, run(LIMITS).stdout.splitlines())}

    def hard(name):
        return resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]

    for name in ("CPU", "DATA", "FSIZE"):
        assert limits[name] == (hard(name), hard(name))
    assert limits["NOFILE"][0] == min(8192, *(limit for limit in [hard("NOFILE")] if limit >= 0))
    assert limits["NOFILE"][1] <= 65_536
    assert limits["STACK"][0] == 8 * MIB
    assert limits["NICE"] == limits["RTPRIO"] == (0, 0)
    assert limits["MSGQUEUE"][1] <= 819_200


def test_the_server_may_open_as_many_files_as_the_machine_lets_it(odd):
    limits = Path(f"/proc/{odd.process.pid}/limits").read_text()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    files = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open files"))

    assert int(files) == (min(hard, 65_536) if hard >= 0 else 65_536)


def test_a_hard_limit_of_processes_below_ours_is_no_obstacle(user):
    def allow_few():
        resource.setrlimit(resource.RLIMIT_NPROC, (1500, 1500))

    with running_server(user=user, before=allow_few) as machine:
        limit = machine.run(machine.create(), "ulimit -u")

    assert limit.exit_code == 0
    assert limit.stdout == "1500" or (user is None and AS_ROOT)  # of root's processes the kernel counts none


def test_a_server_ends_with_its_signals_though_they_were_ignored(user):
    with running_server(user=user, before=change_state) as machine:
        machine.create()
        machine.process.send_signal(signal.SIGTERM)

        assert machine.process.wait(30) == 0
