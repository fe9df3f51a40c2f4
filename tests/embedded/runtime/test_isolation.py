"""The isolation of a sandbox: what it must not see, keep, change or outlive, for each user of a server."""

import ctypes
import os
import platform
import signal
import socket
from pathlib import Path

import pytest

from tests.embedded.machine import AS_ROOT, CAPABILITIES, is_alive, running_server, wait_until

SECRET = "a-secret-of-the-host"


@pytest.fixture(scope="module")
def machine(user):
    with running_server(user=user, environment={"HOST_SECRET": SECRET}) as machine:
        yield machine


@pytest.fixture(scope="module")
def sandbox(machine):
    return machine.create(env={"GIVEN": "given"})


def test_the_home_of_the_host_is_not_there(run):
    assert run("ls -A /root; ls -A /home").stdout == ""


def test_only_system_directories_of_the_host_are_there(run):
    seen = set(run("ls -A /").stdout.split())
    private = {"dev", "home", "media", "mnt", "proc", "root", "run", "srv", "tmp", "var", "workspace"}
    system = {"bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr"}

    assert seen <= private | system
    assert run("find /home /media /mnt /run /srv /tmp /workspace /var/log /var/tmp -type f").stdout == ""


def test_a_file_of_the_host_outside_the_system_is_not_there(run, tmp_path):
    (tmp_path / "here").write_text(SECRET)

    assert run(f"cat '{tmp_path}/here'").exit_code != 0


def test_the_environment_is_the_sandbox_s_own(run):
    names = {line.partition("=")[0] for line in run("env").stdout.splitlines()}

    assert names - {"SHLVL", "PWD", "_", "OLDPWD"} == {"GIVEN", "HOME", "LANG", "OPENSANDBOX_ID", "PATH"}


def test_programs_are_looked_for_in_the_system_alone(run):
    assert run("echo $PATH").stdout == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_no_process_shows_the_environment_of_the_host(run):
    assert SECRET not in run("cat /proc/[0-9]*/environ | tr '\\0' '\\n'").stdout


def test_bubblewrap_cannot_be_seen(run):
    """A process of it would be a way to its program, which belongs to the host."""
    assert "bwrap" not in run("readlink /proc/[0-9]*/exe").stdout


def test_processes_of_the_host_cannot_be_seen(run):
    commands = run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout

    assert "pytest_opensandbox.embedded" not in commands
    assert int(run("ls -d /proc/[0-9]* | wc -l").stdout) < 10


def test_a_service_on_the_host_s_loopback_cannot_be_reached(run):
    with socket.create_server(("127.0.0.1", 0)) as service:
        reached = run(f"exec 3<>/dev/tcp/127.0.0.1/{service.getsockname()[1]}")

    assert reached.exit_code != 0


def test_the_server_itself_cannot_be_reached(run, machine):
    port = machine.url.rpartition(":")[2]

    assert run(f"exec 3<>/dev/tcp/127.0.0.1/{port}").exit_code != 0


def test_an_abstract_socket_of_the_host_cannot_be_reached(run):
    with socket.socket(socket.AF_UNIX) as service:
        service.bind("\0pytest-opensandbox-isolation")
        service.listen()

        assert "pytest-opensandbox-isolation" not in run("cat /proc/net/unix").stdout


def test_there_is_loopback_and_no_other_network(run):
    assert run("ls /sys/class/net 2>/dev/null; grep -c : /proc/net/dev").stdout.strip() == "1"
    assert run("exec 3<>/dev/tcp/192.0.2.1/80").exit_code != 0


def test_any_port_can_be_bound(run):
    bind = 'import socket\nfor port in (1, 80, 443, 1023): socket.create_server(("127.0.0.1", port))'

    assert run(f"python3 -c '{bind}'").exit_code == 0


def test_a_listener_inside_can_be_reached_from_inside(run):
    serve = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()).close()"
    )

    assert run(f'python3 -c "{serve}"').exit_code == 0


def test_there_are_only_the_capabilities_over_what_is_its_own(run):
    held = run("grep ^Cap /proc/self/status").stdout

    assert {line.split()[1] for line in held.splitlines()} == {CAPABILITIES}


def test_privileges_cannot_grow(run):
    assert "NoNewPrivs:\t1" in run("cat /proc/self/status").stdout


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("mount -t tmpfs none /mnt", id="mount"),
        pytest.param("umount /proc", id="umount"),
        pytest.param("mount -o remount,rw /proc/sys", id="remount"),
        pytest.param("unshare --user true", id="a user namespace"),
        pytest.param("unshare --mount true", id="a mount namespace"),
        pytest.param("unshare --net true", id="a network namespace"),
        pytest.param("hostname other", id="another host name"),
        pytest.param("chroot / true", id="chroot"),
        pytest.param("mknod /tmp/disk b 8 0", id="a device"),
        pytest.param("echo 1 > /proc/sys/vm/drop_caches", id="a setting of the kernel"),
        pytest.param("echo x > /proc/sys/kernel/core_pattern", id="the host's core pattern"),
        pytest.param("echo h > /proc/sysrq-trigger", id="the kernel's emergency keys"),
        pytest.param("head -c 1 /proc/kcore", id="the kernel's memory"),
        pytest.param("cat /proc/keys", id="the host's keys"),
        pytest.param("dmesg", id="the kernel's log"),
        pytest.param("kill -0 $(($(cat /proc/sys/kernel/pid_max) - 1))", id="a process outside"),
        pytest.param("cat /etc/shadow", id="the host's password hashes"),
        pytest.param("head -c 1 /dev/sda || head -c 1 /dev/vda || head -c 1 /dev/mem", id="the host's disks"),
    ],
)
def test_it_is_refused(run, command):
    assert run(command).exit_code != 0


def test_the_kernel_s_settings_can_be_read(run):
    assert run("cat /proc/sys/kernel/random/uuid").exit_code == 0


@pytest.mark.skipif(not AS_ROOT, reason="only root could read what an ordinary user cannot")
def test_what_only_root_can_read_on_the_host_is_hidden(run):
    private = [path for path in Path("/etc").rglob("*") if path.is_file() and not path.stat().st_mode & 0o004]
    assert private, "every system keeps its password hashes like this"

    readable = run("for f in " + " ".join(f"'{path}'" for path in private) + '; do head -c 1 "$f" && echo "$f"; done')

    assert readable.stdout == ""


KEYCTL = "import ctypes; call = ctypes.CDLL(None).syscall; "


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the system calls are those of x86_64")
def test_keys_of_the_host_s_session_cannot_be_read(user):
    """Kerberos tickets and file system keys lie there, and the kernel passes them on to every child."""

    def put_a_key_into_a_session_keyring():
        call = ctypes.CDLL(None).syscall
        assert call(250, 1, None) > 0
        assert call(248, b"user", b"host-key", b"secret", 6, -3) > 0

    with running_server(user=user, before=put_a_key_into_a_session_keyring) as machine:
        sandbox_id = machine.create(env={"SEARCH": KEYCTL + "print(call(250, 10, -3, b'user', b'host-key', 0))"})

        assert machine.run(sandbox_id, 'python3 -c "$SEARCH"').stdout.strip() == "-1"


def test_writes_to_the_system_stay_in_the_sandbox(run, machine):
    marks = ["/etc/pytest-opensandbox-mark", "/usr/local/bin/pytest-opensandbox-mark", "/opt/pytest-opensandbox-mark"]

    written = run("".join(f"echo mark > {mark} && cat {mark};" for mark in marks))

    assert written.stdout.split() == ["mark"] * 3
    assert not any(os.path.exists(mark) for mark in marks)


def test_a_system_file_can_be_replaced_in_the_sandbox_alone(run):
    before = Path("/etc/passwd").read_bytes()

    replaced = run(
        "cp /etc/passwd /tmp/p && echo me:x:7:7::/:/bin/sh >> /tmp/p && mv -f /tmp/p /etc/passwd && id -u me"
    )

    assert replaced.stdout.strip() == "7"
    assert Path("/etc/passwd").read_bytes() == before


def test_a_system_file_can_be_removed_in_the_sandbox_alone(run):
    run("rm -f /etc/services /etc/os-release")

    assert run("ls /etc/services").exit_code != 0
    assert os.path.exists("/etc/os-release")


def test_the_agent_s_own_files_cannot_be_changed(run):
    changed = run("rm -rf /opt/opensandbox/lib/opensandbox_agent/*; echo x > /opt/opensandbox/lib/waitress/task.py")

    assert changed.exit_code != 0
    assert run("ls /opt/opensandbox/lib/opensandbox_agent").stdout != ""


def test_written_files_are_gone_with_the_sandbox(machine):
    first = machine.create()
    machine.run(first, "echo x > /tmp/mark; echo x > /workspace/mark; echo x > /root/mark; echo x > /etc/mark")
    machine.client.delete_sandbox(first)

    second = machine.create()

    assert machine.run(second, "find /tmp /workspace /root /etc -name mark").stdout == ""


def test_two_sandboxes_cannot_see_each_other(machine):
    one, other = machine.create(), machine.create()
    machine.run(one, "echo x > /tmp/of-one; (exec -a process-of-one sleep 60) > /dev/null 2>&1 &")

    assert machine.run(other, "ls -A /tmp").stdout == ""
    assert "process-of-one" not in machine.run(other, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert machine.run(one, "echo $OPENSANDBOX_ID").stdout.strip() == one


def test_environment_values_do_not_show_in_the_host_s_process_list(machine):
    machine.create(env={"PASSWORD": "value-in-the-sandbox"})

    shown = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in machine.sandbox_pids() if is_alive(pid))

    assert b"opensandbox_agent" in shown
    assert b"value-in-the-sandbox" not in shown


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda process: process.kill(), id="SIGKILL"),
        pytest.param(lambda process: process.send_signal(signal.SIGTERM), id="SIGTERM"),
        pytest.param(lambda process: process.send_signal(signal.SIGINT), id="SIGINT"),
        pytest.param(lambda process: process.stdin.close(), id="closed input"),
    ],
)
def test_nothing_outlives_the_server(user, end):
    """A killed session must not leave processes behind."""
    with running_server(user=user) as machine:
        sandbox_id = machine.create()
        machine.run(sandbox_id, "nohup setsid sleep 1000 > /dev/null 2>&1 &")
        pids = machine.sandbox_pids()
        assert len(pids) >= 4

        end(machine.process)
        machine.process.wait(30)

        assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_killed_server_s_leftovers_go_with_the_next_one(tmp_path):
    tmp_path.chmod(0o700)
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with running_server(environment=environment) as machine:
        machine.create()
        machine.process.kill()
    (left,) = tmp_path.iterdir()
    assert sum(path.stat().st_size for path in left.rglob("*") if path.is_file()) < 1000
    os.utime(left, (0, 0))

    with running_server(environment=environment):
        now = list(tmp_path.iterdir())

    assert left not in now
    assert list(tmp_path.iterdir()) == []
