"""Attacks of hostile code on the machine around its sandbox, for each user of a server."""

import os
import platform
import socket
from contextlib import suppress

import pytest

from pytest_opensandbox import OpenSandboxError
from pytest_opensandbox.embedded.runtime.agent_connections import EXECD_PORT, TOKEN_HEADER
from pytest_opensandbox.embedded.runtime.limits import MAX_PROCESSES, max_processes, private_bytes
from tests.embedded.machine import AS_ROOT, wait_until

pytestmark = pytest.mark.thorough

X86_64_ONLY = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
SERVED_BY_ROOT = pytest.mark.skipif(not AS_ROOT, reason="an ordinary user could not read or change it outside either")


@pytest.fixture
def python(machine, sandbox):
    """Runs a script in the sandbox and returns what it prints."""

    def run(script, sandbox_id=sandbox):
        done = machine.run(sandbox_id, f"python3 - <<'END'\n{script}\nEND")
        assert done.exit_code == 0, done.stderr
        return done.stdout

    return run


# Root in a sandbox of root owns the host's nodes: a chmod 000 of /dev/null would concern all users of the machine.
@pytest.mark.parametrize("node", ["null", "zero", "full", "random", "urandom", "tty"])
@pytest.mark.parametrize("change", ["chmod 666", "chown 0", "touch -d 2001-01-01"])
def test_a_device_node_of_the_host_cannot_be_changed(run, change, node):
    before = os.stat(f"/dev/{node}")

    assert run(f"{change} /dev/{node}").exit_code != 0
    after = os.stat(f"/dev/{node}")
    assert (before.st_mode, before.st_uid, before.st_ctime_ns) == (after.st_mode, after.st_uid, after.st_ctime_ns)


def test_the_device_nodes_still_work(run):
    used = run(
        "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 5 /dev/urandom | wc -c; echo x > /dev/full"
    )

    assert used.stdout.split() == ["3", "5"]
    assert "No space left" in used.stderr


# The kernel keeps one set of permissions for /proc/meminfo and its like, whichever namespace looks at it.
@pytest.mark.parametrize("name", ["meminfo", "stat", "cmdline", "version"])
def test_the_permissions_of_the_kernel_s_files_cannot_be_changed(run, name):
    assert run(f"chmod 444 /proc/{name}").exit_code != 0


@SERVED_BY_ROOT
def test_what_the_kernel_shows_only_to_root_stays_hidden(run):
    private = [entry.path for entry in os.scandir("/proc") if entry.is_file() and not entry.stat().st_mode & 0o004]
    assert private

    read = run(
        f"for f in {' '.join(private)}; do timeout 2 head -c 1 $f > /tmp/byte && [ -s /tmp/byte ] && echo $f; done"
    )

    assert read.stdout == ""


@SERVED_BY_ROOT
@pytest.mark.parametrize(
    "trick",
    [
        pytest.param("ln /etc/shadow /etc/copy; cat /etc/copy", id="a hard link"),
        pytest.param("mv /etc/shadow /etc/copy; cat /etc/copy", id="a rename"),
        pytest.param("ln -s /etc /tmp/etc; cat /tmp/etc/shadow", id="a symbolic link"),
        pytest.param("rm -f /etc/shadow; cat /etc/shadow", id="a removal"),
        pytest.param("cat /proc/1/root/etc/shadow /proc/self/cwd/etc/shadow", id="another way to the same root"),
        pytest.param("chmod 644 /etc/shadow; cat /etc/shadow", id="other permissions"),
    ],
)
def test_a_hidden_file_stays_hidden(run, trick):
    assert ":" not in run(trick).stdout


def test_no_process_inside_has_another_root_or_directory_outside(run):
    roots = run("for p in /proc/[0-9]*; do stat -Lc %d:%i $p/root $p/cwd/; done; stat -Lc %d:%i / /").stdout.split()

    assert len(set(roots)) == 1


def test_no_process_inside_has_a_descriptor_of_what_made_the_sandbox(run):
    descriptors = run("readlink /proc/[0-9]*/fd/*").stdout.splitlines()

    known = ("pipe:", "socket:", "anon_inode:", "/dev/null", "/tmp/", "/proc/")
    assert [target for target in descriptors if not target.startswith(known)] == []


def test_every_place_in_memory_is_bounded_or_read_only(run):
    mounts = [line.split() for line in run("cat /proc/self/mounts").stdout.splitlines()]
    open_ended = [
        place
        for _, place, kind, options, *_ in mounts
        if kind == "tmpfs" and "ro" not in options.split(",") and "size=" not in options
    ]

    assert open_ended == []
    assert int(run("df --block-size=1 --output=size /dev/shm | tail -1").stdout) <= private_bytes() + 4096


def test_shared_memory_works(python):
    assert python("import multiprocessing as m; print(m.get_context('fork').Value('i', 7).value)") == "7"


def test_there_is_no_terminal_to_type_into(run):
    assert run(": < /dev/tty").exit_code != 0


def test_a_crash_does_not_reach_the_host_s_crash_handler(python):
    """A limit of one byte is the kernel's way to say: no file, and no handler either."""
    assert python("import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))") == "1 1"


def test_processes_and_threads_are_bounded_where_the_kernel_counts_them(python, user):
    threads = """
import threading
threading.stack_size(65536)
stop, started = threading.Event(), 0
try:
    while started < 5000:
        threading.Thread(target=stop.wait).start()
        started += 1
except RuntimeError:
    pass
stop.set()
print(started)"""
    if max_processes() is None and user is None:
        pytest.skip("the kernel counts none of root's")

    assert MAX_PROCESSES // 2 < int(python(threads)) < MAX_PROCESSES


def test_ending_every_process_that_can_be_seen_ends_no_other_sandbox(machine):
    one, other = machine.create(), machine.create()

    with suppress(OpenSandboxError):  # the agent, which was to answer, ends as well
        machine.run(one, "kill -9 -1")

    assert machine.run(other, "echo here").stdout == "here"


CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(256)
one = os.open("/proc/1/ns/mnt", os.O_RDONLY)
for name, number, *arguments in (
    ("open a file system", 430, b"tmpfs", 0),
    ("move a mount", 428, -100, b"/", 1),
    ("open by handle", 304, -100, buffer, 0),
    ("enter a namespace", 308, one, 0),
    ("make a user namespace", 272, 0x10000000),
    ("make a PID namespace", 272, 0x20000000),
    ("change the root", 155, b"/", b"/"),
    ("set the clock", 164, buffer, 0),
    ("reboot", 169, 0xFEE1DEAD, 672274793, 0, 0),
    ("read the kernel's log", 103, 3, buffer, 256),
    ("run in real time", 144, 0, 1, b"\\1\\0\\0\\0"),
    ("watch the kernel", 298, buffer, -1, 0, -1, 0),
    ("load a program into the kernel", 321, 5, buffer, 120),
    ("swap", 167, b"/etc/hostname", 0),
):
    if libc.syscall(number, *arguments) >= 0:
        print(name)
"""


@X86_64_ONLY
def test_the_kernel_does_nothing_for_it_that_takes_a_privilege(python):
    assert python(CALLS) == ""


KEYS = "import ctypes; call = ctypes.CDLL(None).syscall; print(call({}))"


@X86_64_ONLY
@pytest.mark.parametrize("keyring", [pytest.param(-3, id="of the session"), pytest.param(-4, id="of the user")])
def test_no_key_can_be_kept_or_found(machine, python, keyring):
    """The user's keyring is that of the host's user, so no sandbox may use it."""
    one, other = machine.create(), machine.create()

    added = python(KEYS.format(f"248, b'user', b'of-one', b'secret', 6, {keyring}"), one)
    found = python(KEYS.format(f"250, 10, {keyring}, b'user', b'of-one', 0"), other)

    assert (added, found) == ("-1", "-1")


# Any process beside the agent can replace the agent. A connection that it accepts from the server carries a handle
# of the server's process, which must be of no use.
THEFT = """
import array, ctypes, os, socket
call = ctypes.CDLL(None, use_errno=True).syscall
agent = os.pidfd_open(2)
for number in map(int, os.listdir("/proc/2/fd")):
    taken = call(438, agent, number, 0)
    if taken >= 0 and os.readlink(f"/proc/self/fd/{taken}").startswith("socket:"):
        listener = socket.socket(fileno=taken)
        if listener.family == socket.AF_UNIX and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            break
listener.setblocking(False)
connection = None
while connection is None:  # a process that waits loses most connections to the agent
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        pass
results = open("/tmp/unfinished", "w")
try:
    server = array.array("i", connection.getsockopt(socket.SOL_SOCKET, 77, 4))[0]
except OSError:
    print("no handle", -1, file=results)
else:
    for name, arguments in (
        ("signal", (424, server, 0, None, 0)),
        ("descriptor", (438, server, 0, 0)),
        ("namespace", (308, server, 0x20000)),
        ("memory", (440, server, None, 0, 21, 0)),
    ):
        print(name, call(*arguments), file=results)
results.close()
os.rename("/tmp/unfinished", "/tmp/results")
"""


@X86_64_ONLY
def test_the_agent_s_socket_leads_nowhere(machine):
    sandbox_id = machine.create(env={"THEFT": THEFT})
    relay = machine.client.discover_execd(sandbox_id)
    machine.run(sandbox_id, 'setsid python3 -c "$THEFT" > /dev/null 2>&1 &')

    def is_stolen():
        socket.create_connection((relay.host, relay.port)).close()
        with suppress(OpenSandboxError):  # it may take this connection as well
            return machine.run(sandbox_id, "ls /tmp/results").exit_code == 0
        return False

    assert wait_until(is_stolen)
    results = machine.run(sandbox_id, "cat /tmp/results").stdout.splitlines()
    assert {line.rpartition(" ")[2] for line in results} == {"-1"}
    assert machine.process.poll() is None


@pytest.mark.parametrize("query", ["", "?use_server_proxy=true"], ids=["directly", "through the server"])
def test_the_secret_of_one_sandbox_opens_no_other(machine, sandbox, query):
    endpoint = f"endpoints/{EXECD_PORT}{query}"
    own, foreign = (
        machine.request("GET", f"/v1/sandboxes/{sandbox_id}/{endpoint}").json()
        for sandbox_id in (sandbox, machine.create())
    )
    secret, another = own["headers"][TOKEN_HEADER], foreign["headers"][TOKEN_HEADER]
    address, without = foreign["endpoint"], foreign["endpoint"].replace(f"/{another}", "")

    def status(address, **headers):
        return machine.get(f"http://{address}/ping", headers=headers).status_code

    assert status(address) == 200
    assert status(address.replace(another, secret)) == 401
    assert status(without, **{TOKEN_HEADER: secret}) == 401
    assert status(address.replace(another, secret), **{TOKEN_HEADER: secret}) == 401
    assert status(f"{without}/{secret}") == 401
