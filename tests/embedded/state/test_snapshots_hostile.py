"""Attacks of hostile code through a snapshot, on the machine and on restored sandboxes."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_opensandbox import NotFoundError
from pytest_opensandbox.embedded.runtime.bubblewrap import mount_paths, sandbox_options
from pytest_opensandbox.embedded.runtime.host_files import find_host_files
from pytest_opensandbox.embedded.runtime.snapshot_files import BOOT
from tests.embedded.machine import AS_ROOT, CAPABILITIES, USERS, running_server
from tests.embedded.state.test_snapshots import places, restore, take

pytestmark = pytest.mark.thorough

SECRET = "a-secret-of-the-host"


@pytest.fixture(scope="module", params=USERS)
def machine(request):
    with running_server(user=request.param) as machine:
        yield machine


@pytest.fixture
def kept(machine):
    """Runs hostile code in a sandbox and takes a snapshot; returns its description, and a restored sandbox."""
    made = []

    def keep(command):
        source = machine.create()
        prepared = machine.run(source, command)
        assert prepared.exit_code == 0, prepared.stderr
        snapshot = take(machine, source)
        made.append(source)
        if snapshot["status"]["state"] == "Ready":
            made.append(restore(machine, snapshot["id"]))
        return snapshot, made[-1]

    yield keep
    for sandbox_id in made:
        with suppress(NotFoundError):
            machine.client.delete_sandbox(sandbox_id)


LEAD_ASTRAY = [
    pytest.param("mv /opt/opensandbox /opt/old; ln -s {host} /opt/opensandbox", id="the agent's place"),
    pytest.param("rm -rf /var/lib; mv /var /old; ln -s {host} /var", id="a directory above a mount"),
    pytest.param("mkdir -p /old && mv /home /old/home; ln -s {host} /home", id="a private directory"),
    pytest.param("mv /tmp /old-tmp; ln -s {host} /tmp", id="the temporary directory"),
    pytest.param("mv /run /old-run; ln -s {host} /run; rm -f /var/run; ln -s {host} /var/run", id="a linked directory"),
    pytest.param("rm -f /bin; mkdir /bin; rm -f /lib; ln -s {host} /lib; ln -s usr/bin /b", id="a link of the system"),
]


@pytest.fixture
def in_sight():
    """A directory of the host that all users may write to, visible while bubblewrap builds a sandbox."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("command", LEAD_ASTRAY)
@pytest.mark.parametrize("root", ["/oldroot", "../../../oldroot"])
def test_links_do_not_lead_a_restored_sandbox_s_mounts_to_the_host(machine, kept, in_sight, command, root):
    """Bubblewrap sees the host's directories while it builds a sandbox, and follows links into them."""
    snapshot, sandbox = kept(f"({command.format(host=f'{root}{in_sight}')}) 2>/dev/null; true")

    assert snapshot["status"]["state"] == "Ready"
    assert machine.run(sandbox, "echo here; ls -d /usr /etc /opt/opensandbox/lib").stdout.startswith("here\n/etc\n")
    assert list(in_sight.iterdir()) == []


def test_links_to_the_host_are_kept_as_links(machine, kept, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    tmp_path.chmod(0o755)

    _, sandbox = kept(f"ln -s {tmp_path}/secret /root/file; ln -s {tmp_path} /root/directory; ln -s / /root/all")

    assert machine.run(sandbox, "readlink /root/file /root/directory").stdout.split() == [
        f"{tmp_path}/secret",
        str(tmp_path),
    ]
    assert SECRET not in machine.run(sandbox, "cat /root/file /root/directory/secret").stdout


@pytest.mark.skipif(not AS_ROOT, reason="only root could read what an ordinary user cannot")
@pytest.mark.parametrize(
    "trick",
    [
        pytest.param("ln /etc/shadow /etc/copy", id="a hard link"),
        pytest.param("ln -s /etc /tmp/etc; ln -s /etc/shadow /root/shadow", id="symbolic links"),
        pytest.param("rm -f /etc/shadow; mv /etc/shadow /etc/other", id="a removal"),
        pytest.param("cp -a /etc /etc2; cp -a /etc /root/etc", id="a copy"),
        pytest.param("chmod 777 /etc /etc/shadow; touch /etc/shadow", id="other permissions"),
    ],
)
def test_hidden_files_stay_hidden(machine, kept, trick):
    _, sandbox = kept(f"({trick}) 2>/dev/null; true")

    readable = machine.run(sandbox, "cat /etc/shadow /tmp/etc/shadow /etc/copy /etc/other /etc2/shadow /root/*/shadow")

    assert ":" not in readable.stdout


SWAP = """
import os
os.makedirs('/root/swap/dir'); open('/root/swap/dir/mine', 'w').write('mine')
if os.fork() == 0:
    os.setsid()
    for fd in (0, 1, 2): os.close(fd)
    while True:
        os.rename('/root/swap/dir', '/root/swap/away'); os.symlink('{host}', '/root/swap/dir')
        os.unlink('/root/swap/dir'); os.rename('/root/swap/away', '/root/swap/dir')
"""


def test_links_swapped_for_directories_all_the_time_lead_nowhere(machine, kept, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    tmp_path.chmod(0o777)

    snapshot, sandbox = kept(f'python3 -c "{SWAP.format(host=tmp_path)}"')

    assert snapshot["status"]["state"] == "Ready"
    assert SECRET not in machine.run(sandbox, "cat /root/swap/*/* /root/swap/*").stdout
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_huge_hole_takes_no_room(machine, kept):
    snapshot, sandbox = kept("truncate -s 8T /root/huge; echo end >> /root/huge")

    assert snapshot["status"]["state"] == "Ready"
    assert machine.run(sandbox, "stat -c %s /root/huge; du -k /root/huge").stdout.split()[0] == str((8 << 40) + 4)
    (place,) = places(machine)
    assert sum(path.lstat().st_blocks for path in place.rglob("huge")) * 512 < 1 << 20


def test_too_deep_a_tree_fails_the_snapshot_and_nothing_else(machine, kept):
    snapshot, source = kept("cd /root; for i in $(seq 500); do mkdir d && cd d; done")

    assert snapshot["status"]["state"] == "Failed"
    assert "directories inside each other" in snapshot["status"]["message"]
    assert machine.run(source, "echo it goes on").stdout == "it goes on"
    assert machine.client.delete_snapshot(snapshot["id"])


def test_pipes_nobody_reads_do_not_hold_it_up(machine, kept):
    bind = "import socket; socket.socket(socket.AF_UNIX).bind('/root/socket')"

    snapshot, sandbox = kept(f'mkfifo /root/pipe; chmod 622 /root/pipe; python3 -c "{bind}"')

    assert snapshot["status"]["state"] == "Ready"
    assert machine.run(sandbox, "stat -c '%F %a' /root/pipe; ls /root/socket").stdout == "fifo 622"


def test_set_id_bits_of_files_are_not_kept(machine, kept):
    """They have no effect in a sandbox, and the copy lies on the host."""
    _, sandbox = kept("cp /bin/sh /root/sh; chmod 6755 /root/sh; mkdir /root/d; chmod 3775 /root/d")

    (place,) = places(machine)
    assert not any(path.lstat().st_mode & stat.S_ISUID for path in place.rglob("*"))
    assert machine.run(sandbox, "stat -c %a /root/sh /root/d").stdout.split() == ["755", "3775"]


def test_nobody_else_can_enter_what_is_kept(machine, kept):
    kept("echo private > /root/private; chmod 777 / /root /root/private")
    (place,) = places(machine)

    assert place.stat().st_mode & 0o777 == 0o700


def test_what_it_makes_unreadable_is_kept_and_can_be_deleted(machine, kept):
    snapshot, sandbox = kept("mkdir -p /root/a/b; echo x > /root/a/b/c; chmod 000 /root/a/b/c /root/a/b /root/a")
    (place,) = places(machine)

    assert machine.run(sandbox, "chmod 700 /root/a /root/a/b; chmod 600 /root/a/b/c; cat /root/a/b/c").stdout == "x"
    machine.client.delete_sandbox(sandbox)
    before = len(list(place.glob("layer-*")))
    assert machine.client.delete_snapshot(snapshot["id"])
    assert len(list(place.glob("layer-*"))) == before - 1


MARKS = """
import os
os.makedirs('/root/d'); open('/root/d/f', 'w').write('mine')
marks = {'opaque': b'y', 'redirect': b'/etc', 'metacopy': b'', 'whiteout': b'y', 'origin': b'x' * 20}
for name, value in marks.items():
    for path in ('/root', '/root/d', '/root/d/f', '/etc', '/usr', '/etc/hosts'):
        for prefix in ('user.overlay.', 'user.overlay.overlay.'):
            try: os.setxattr(path, prefix + name, value)
            except OSError: pass
try: os.mknod('/root/whiteout', 0o20666, 0); os.mknod('/etc/whiteout', 0o20666, 0)
except OSError: pass
try: os.setxattr('/root/d/f', 'user.own', b'kept')
except OSError: pass
"""


def test_marks_of_overlays_cannot_be_smuggled_in(machine, kept):
    snapshot, sandbox = kept(f"cat > /tmp/marks.py <<'END'\n{MARKS}\nEND\npython3 /tmp/marks.py")

    assert snapshot["status"]["state"] == "Ready"
    assert machine.run(sandbox, "cat /root/d/f; echo; ls /root").stdout.split() == ["mine", "d"]
    assert int(machine.run(sandbox, "ls /etc | wc -l").stdout) > 20
    assert machine.run(sandbox, "head -c 1 /etc/hosts | wc -c").stdout.strip() == "1"
    (place,) = places(machine)
    for path in place.rglob("d"):
        assert not any(name.startswith("user.overlay") for name in os.listxattr(path, follow_symlinks=False))


def test_a_restored_sandbox_is_as_confined_as_any(machine, kept):
    _, sandbox = kept("echo x > /root/x")

    assert machine.run(sandbox, "grep ^CapEff /proc/self/status").stdout.split()[1] == CAPABILITIES
    assert "NoNewPrivs:\t1" in machine.run(sandbox, "cat /proc/self/status").stdout
    assert machine.run(sandbox, "mount -t tmpfs none /mnt || unshare --user true").exit_code != 0
    assert machine.run(sandbox, "ls -d /writes /layers /oldroot /newroot").stdout == ""
    assert machine.run(sandbox, "echo x > /etc/written; echo x > /root/written").exit_code == 0
    assert not any(os.path.exists(path) for path in ("/etc/written", "/root/written"))


def test_a_snapshot_cannot_be_changed_by_its_sandboxes(machine, kept):
    _, sandbox = kept("echo original > /root/file; echo original > /usr/local/bin/file")
    (place,) = places(machine)
    before = {path: path.read_text() for path in place.rglob("file")}

    machine.run(sandbox, "echo changed > /root/file; echo changed > /usr/local/bin/file; chmod 777 /root/file")

    assert len(before) >= 2
    assert {path: path.read_text() for path in before} == before


def test_every_mount_of_a_sandbox_is_known_to_the_copy():
    """A mount that is not on the list could be led astray by a link in a snapshot."""
    host = find_host_files()
    fixed = mount_paths(host)

    for is_copy_on_write in (True, False):
        options = list(sandbox_options(host, Path("/layer"), is_copy_on_write=is_copy_on_write, is_nested=True))
        for place in _destinations(options):
            inside = any(place == path or place.startswith(f"{path}/") for path in fixed)
            assert inside or place in ("/", *_PRIVATE_DIRECTORIES), place


_PRIVATE_DIRECTORIES = (
    *("/home", "/run", "/run/lock", "/workspace", "/mnt", "/media", "/srv", "/var", "/tmp", "/var/tmp", "/root"),
    *(f"/var/{name}" for name in ("cache", "lib", "log", "opt", "spool")),
)


def _destinations(options):
    """Yield the paths at which bubblewrap mounts, links or creates directories."""
    takes_two = {"--bind", "--ro-bind", "--ro-bind-try", "--dev-bind", "--symlink"}
    takes_one = {"--tmpfs", "--dev", "--proc", "--dir", "--tmp-overlay"}
    for index, option in enumerate(options):
        if option in takes_two:
            yield options[index + 2]
        elif option in takes_one:
            yield options[index + 1]
        elif option == "--overlay":
            yield options[index + 3]


def test_the_copying_program_does_nothing_for_a_parent_that_has_gone():
    order = '{"source": "/", "target": "/", "trees": {}, "entries": 0, "bytes": 0, "parent": 1}'

    ended = subprocess.run([sys.executable, "-I", "-S", "-c", BOOT, order], check=False, capture_output=True)

    assert ended.returncode == 1
