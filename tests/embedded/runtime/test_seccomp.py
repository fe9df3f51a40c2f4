"""The filter for system calls: in an interpreter for each processor, and in a sandbox on this one."""

import errno
import json
import platform
import struct
from pathlib import Path

import pytest

from pytest_opensandbox.embedded.runtime.seccomp import ALLOW, KILL, MACHINES, REFUSE, filter_program
from tests.embedded.machine import USERS, running_server

# Generated from the headers of the C library for Linux 6.1; the file names them.
NUMBERS = json.loads(Path(__file__).with_name("system_calls.json").read_text())
I386, ARM = 0x40000003, 0x40000028
X32 = 0x40000000
NOT_PERMITTED = set(
    """
    acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick get_mempolicy
    init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount
    mount_setattr move_mount move_pages open_by_handle_at open_tree perf_event_open pivot_root quotactl quotactl_fd
    reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon
    sysfs syslog umount2 uselib userfaultfd ustat vhangup
    """.split()
)
NOT_KNOWN = {"clone3", "io_uring_enter", "io_uring_register", "io_uring_setup"}
JUDGED_BY_ARGUMENTS = {"socket", "socketpair"}
EPERM, ENOSYS = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
NO_FAMILY, NO_PROTOCOL = REFUSE | errno.EAFNOSUPPORT, REFUSE | errno.EPROTONOSUPPORT


def verdict(program, machine, number, *arguments):
    """Run a filter as the kernel does, on one system call."""
    call = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    tests = {0x15: lambda k: accumulator == k, 0x25: lambda k: accumulator > k, 0x45: lambda k: bool(accumulator & k)}
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", call, k)
        elif code == 0x06:
            return k
        else:
            at += if_true if tests[code](k) else if_false


@pytest.fixture(params=sorted(MACHINES))
def machine(request):
    return request.param


@pytest.fixture
def action(machine):
    """Returns the filter's action for a system call of one processor, by name."""
    program = filter_program(machine)
    return lambda name, *arguments: verdict(program, MACHINES[machine], NUMBERS[machine][name], *arguments)


def test_every_call_is_refused_or_served_as_the_table_says(machine, action):
    expected = {
        name: EPERM if name in NOT_PERMITTED else ENOSYS if name in NOT_KNOWN else ALLOW
        for name in NUMBERS[machine].keys() - JUDGED_BY_ARGUMENTS
    }

    assert {name: action(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", [0x01200011], ALLOW),  # fork of the C library
        ("clone", [0x003D0F00], ALLOW),  # a thread of the C library
        *[("clone", [17 | 1 << bit], EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)],
        ("clone", [17 | 1 << 28 | 1 << 40], EPERM),
        ("unshare", [0x200 | 0x400], ALLOW),  # directory and descriptors, for one thread
        *[("unshare", [1 << bit], EPERM) for bit in (7, 17, 25, 26, 27, 28, 29, 30)],
        ("socket", [1, 1, 0], ALLOW),
        ("socket", [2, 2, 0], ALLOW),
        ("socket", [10, 1 | 0x80000, 6], ALLOW),
        ("socket", [16, 3, 0], ALLOW),  # interfaces and routes
        *[("socket", [16, 3, protocol], NO_PROTOCOL) for protocol in (4, 9, 12, 15, 16)],
        *[("socket", [family, 1, 0], NO_FAMILY) for family in (0, 17, 29, 30, 31, 38, 40, 44, 2**32 - 1)],
        ("socketpair", [1, 1, 0], ALLOW),
        ("socketpair", [30, 1, 0], NO_FAMILY),
        ("ioctl", [0, 0x5401], ALLOW),
        *[("ioctl", [0, command], EPERM) for command in (0x5412, 0x541C, 0x5412 | 1 << 32)],
        ("fcntl", [3, 10, 29], ALLOW),
        ("fcntl", [3, 10, 18], REFUSE | errno.EINVAL),  # what would wake up a paused process
        ("fcntl", [3, 10, 9], REFUSE | errno.EINVAL),
        ("fcntl", [3, 10, 10], ALLOW),
        ("fcntl", [18, 18, 18], ALLOW),
        ("prctl", [1, 9], ALLOW),
        ("prctl", [1, 18], REFUSE | errno.EINVAL),
        ("prctl", [15, 18], ALLOW),
        *[("personality", [value], ALLOW) for value in (0, 8, 0x20000, 0x40000, 0x40008, 0xFFFFFFFF)],
        *[("personality", [value], EPERM) for value in (0x400000, 0x100000, 0x200000, 0xFFFFFFFE)],
    ],
)
def test_arguments_decide_where_a_call_can_do_both(action, name, arguments, expected):
    assert action(name, *arguments) == expected


def test_a_call_of_another_processor_ends_its_program(machine):
    program = filter_program(machine)
    others = {I386, ARM, *MACHINES.values()} - {MACHINES[machine]}

    assert {verdict(program, other, number) for other in others for number in (0, 20, 120, 0xFFFFFFFF)} == {KILL}


def test_calls_of_x32_and_of_later_kernels_are_not_known(machine):
    program = filter_program(machine)
    numbers = [457, 500, 512, 547, 2**31 - 1, *(X32 | number for number in NUMBERS["x86_64"].values())]

    assert {verdict(program, MACHINES[machine], number) for number in numbers} == {ENOSYS}


def test_a_tracer_may_skip_a_call(machine):
    assert verdict(filter_program(machine), MACHINES[machine], -1) == ALLOW


def test_other_processors_have_no_filter():
    assert filter_program("riscv64") == b""


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this processor")
def test_this_machine_has_the_filter_of_its_processor():
    assert filter_program() == filter_program(platform.machine())


CALL = """
import ctypes, os, sys
call = ctypes.CDLL(None, use_errno=True).syscall
for line in sys.argv[1:]:
    name, *numbers = line.split()
    failed = call(*(ctypes.c_long(int(number)) for number in numbers)) < 0
    print(name, ctypes.get_errno() if failed else 0)
"""
# Calls that are harmless, and that kernels serve for every user, or for root in a namespace.
INSIDE = {
    "keyctl": [0, -4, 0],  # the id of the user's keyring, which is the host user's
    "add_key": [0, 0, 0, 0, -4],
    "request_key": [0, 0, 0, -4],
    "userfaultfd": [1],
    "perf_event_open": [0, 0, -1, -1, 0],
    "io_uring_setup": [1, 0],
    "bpf": [0, 0, 0],
    "open_by_handle_at": [-1, 0, 0],
    "clone3": [0, 0],
    "unshare": [0x10000000],
    "setns": [-1, 0],
    "mount": [0, 0, 0, 0, 0],
    "open_tree": [-100, 0, 0],
    "kcmp": [1, 1, 0, 0, 0],
    "fanotify_init": [0, 0],
}
CODES = {"clone3": errno.ENOSYS, "io_uring_setup": errno.ENOSYS}


@pytest.fixture(scope="module", params=USERS)
def run(request):
    with running_server(user=request.param) as server:
        sandbox = server.create(env={"CALL": CALL})
        yield lambda command: server.run(sandbox, command)


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this processor")
def test_calls_are_refused_in_a_sandbox(run):
    numbers = NUMBERS[platform.machine()]
    lines = [f"'{name} {numbers[name]} {' '.join(map(str, values))}'" for name, values in INSIDE.items()]

    results = run(f'python3 -c "$CALL" {" ".join(lines)}').stdout.split()

    assert dict(zip(results[::2], map(int, results[1::2]), strict=True)) == {
        name: CODES.get(name, errno.EPERM) for name in INSIDE
    }


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this processor")
def test_every_process_of_a_sandbox_has_the_filter(run):
    modes = run("grep -h ^Seccomp: /proc/[0-9]*/status").stdout.splitlines()

    assert len(modes) > 2
    assert set(modes) == {"Seccomp:\t2"}


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this processor")
def test_the_host_s_virtual_machine_sockets_are_out_of_reach(run):
    tried = run("python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM).bind((2**32 - 1, 5555))'")

    assert f"[Errno {errno.EAFNOSUPPORT}]" in tried.stderr


# getpid by the gate of 32-bit programs: mov eax, 20; int 0x80; ret.
OLD_GATE = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a gate of x86")
def test_the_gate_of_32_bit_programs_ends_who_uses_it(run):
    used = run(f"python3 -c '{OLD_GATE}'; echo status $?")

    assert used.stdout.strip() in ("status 159", "status 139")  # by the filter, or by a kernel without that gate


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86")
def test_x32_calls_are_not_known_in_a_sandbox(run):
    getpid = X32 | NUMBERS["x86_64"]["getpid"]

    assert run(f"python3 -c \"$CALL\" 'getpid {getpid}'").stdout.split() == ["getpid", str(errno.ENOSYS)]


def test_threads_children_and_local_sockets_work_under_the_filter(run):
    script = """
import socket, subprocess, threading
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname()).close()
socket.socketpair()[0].close()
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout, socket.if_nameindex()[0][1])
"""
    done = run(f"python3 - <<'END'\n{script}\nEND")

    assert (done.exit_code, done.stdout.split()) == (0, ["thread", "child", "lo"])


def test_a_machine_without_a_filter_says_so_and_has_sandboxes_all_the_same(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'riscv64'\n")

    with running_server(environment={"PYTHONPATH": str(tmp_path)}) as server:
        sandbox = server.create()

        assert server.run(sandbox, "grep ^Seccomp: /proc/self/status").stdout == "Seccomp:\t0"
        assert "no seccomp filter" in server.client.diagnostics(sandbox, "logs")
