"""Snapshots as every server keeps them: what comes back in a restored sandbox, and who may be deleted when."""

from uuid import uuid4

import pytest

from pytest_opensandbox import ConflictError, NotFoundError, SandboxOpts
from tests.embedded.machine import wait_until

CHANGE_EVERYTHING = """set -e
mkdir -p /root/kept/deep /data
printf 'a\\0b\\377\\n' > /root/kept/deep/bytes
echo private > /data/secret; chmod 640 /data/secret
ln /root/kept/deep/bytes /root/kept/hard
ln -s deep/bytes /root/kept/soft
ln -s /nowhere/at/all /root/kept/dangling
mkfifo /tmp/pipe
echo kept > '/tmp/a name with  spaces'
touch -d '2001-02-03 04:05:06 UTC' /root/kept/old
printf '#!/bin/sh\\necho installed\\n' > /usr/local/bin/installed; chmod 755 /usr/local/bin/installed
echo setting=1 > /etc/of-the-snapshot.conf
rm -f /etc/debian_version
rm -rf /etc/apt; mkdir /etc/apt; echo new > /etc/apt/only
truncate -s 64M /root/sparse; echo end >> /root/sparse
"""
LOOK = {
    "od -An -c /root/kept/deep/bytes | tr -d ' '": "a\\0b377\\n\n",
    "stat -c '%a %U' /data/secret; cat /data/secret": "640 root\nprivate\n",
    "[ /root/kept/hard -ef /root/kept/deep/bytes ] && stat -c %h /root/kept/hard": "2\n",
    "readlink /root/kept/soft /root/kept/dangling": "deep/bytes\n/nowhere/at/all\n",
    "stat -c %F /tmp/pipe": "fifo\n",
    "cat '/tmp/a name with  spaces'": "kept\n",
    "stat -c %Y /root/kept/old": "981173106\n",
    "installed": "installed\n",
    "cat /etc/of-the-snapshot.conf": "setting=1\n",
    "ls /etc/debian_version 2>/dev/null": "",
    "ls /etc/apt": "only\n",
    "stat -c %s /root/sparse; tail -c 4 /root/sparse": "67108868\nend\n",
}


@pytest.fixture(scope="module")
def keep(opensandbox_client):
    """Takes snapshots, and deletes them when the module's sandboxes have gone."""
    taken = []

    def take(sandbox, name=None):
        taken.append(opensandbox_client.create_snapshot(sandbox.id, name).id)
        assert wait_until(lambda: opensandbox_client.get_snapshot(taken[-1]).state != "Creating")
        assert opensandbox_client.get_snapshot(taken[-1]).state == "Ready"
        return taken[-1]

    yield take
    for snapshot_id in reversed(taken):
        opensandbox_client.delete_snapshot(snapshot_id)


@pytest.fixture(scope="module")
def changed(sandbox_factory, keep):
    """A snapshot of a sandbox in which much was changed, and which was deleted as soon as the snapshot was ready."""
    with sandbox_factory() as sandbox:
        sandbox.run(CHANGE_EVERYTHING, check=True)
        return keep(sandbox)


@pytest.fixture(scope="module")
def restored(sandbox_factory, changed):
    with sandbox_factory(snapshot=changed) as sandbox:
        yield sandbox


@pytest.mark.parametrize(("look", "seen"), LOOK.items(), ids=LOOK)
def test_what_was_changed_is_restored(restored, look, seen):
    assert restored.run(look).stdout == seen


def test_processes_and_shared_memory_are_not_kept(sandbox_factory, keep):
    with sandbox_factory() as sandbox:
        sandbox.run("(exec -a left-running sleep 600) > /dev/null 2>&1 & echo x > /dev/shm/left")
        snapshot = keep(sandbox)

    with sandbox_factory(snapshot=snapshot) as sandbox:
        assert "left-running" not in sandbox.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        assert sandbox.run("ls /dev/shm").stdout == ""


def test_the_source_goes_on(sandbox_factory, keep):
    with sandbox_factory() as sandbox:
        sandbox.run("(while :; do date +%N > /tmp/now; sleep 0.01; done) > /dev/null 2>&1 & echo 1 > /root/before")
        keep(sandbox)
        then = sandbox.run("cat /tmp/now").stdout

        assert wait_until(lambda: sandbox.run("cat /tmp/now").stdout not in ("", then))
        assert sandbox.run("cat /root/before; echo 2 > /root/after; cat /root/after").stdout == "1\n2\n"


def test_restored_sandboxes_change_neither_the_snapshot_nor_each_other(sandbox_factory, changed):
    with sandbox_factory(snapshot=changed) as one, sandbox_factory(snapshot=changed) as other:
        one.run("echo other > /data/secret; rm /usr/local/bin/installed; rm -rf /etc/apt /root/kept", check=True)

        assert other.run("cat /data/secret; installed; ls /etc/apt /root/kept").stdout.split() == (
            "private installed /etc/apt: only /root/kept: dangling deep hard old soft".split()
        )
    with sandbox_factory(snapshot=changed) as later:
        assert later.run("cat /data/secret; installed").stdout == "private\ninstalled\n"


def test_a_restored_sandbox_can_be_kept_again(sandbox_factory, changed, keep):
    with sandbox_factory(snapshot=changed) as sandbox:
        sandbox.run(
            "echo second > /root/second; rm /data/secret; rm -r /root/kept/deep; mkdir /root/kept/deep", check=True
        )
        second = keep(sandbox)
    with sandbox_factory(snapshot=second) as sandbox:
        seen = sandbox.run("cat /root/second; ls -A /data /root/kept/deep; installed; ls /etc/apt").stdout
        sandbox.run("echo third > /root/third; rm /root/second", check=True)
        third = keep(sandbox)

    with sandbox_factory(snapshot=third) as sandbox:
        assert sandbox.run("ls /root/second /root/third; installed", timeout=30).stdout == "/root/third\ninstalled\n"
    assert seen == "second\n/data:\n\n/root/kept/deep:\ninstalled\nonly\n"


def test_the_entrypoint_and_the_environment_are_the_new_sandbox_s_own(sandbox_factory, changed):
    with sandbox_factory(snapshot=changed, env={"GIVEN": "anew"}) as sandbox:
        assert sandbox.run("echo $GIVEN; echo $OPENSANDBOX_ID").stdout == f"anew\n{sandbox.id}\n"


def test_a_sandbox_has_the_id_of_its_snapshot(opensandbox_client, restored, changed):
    described = opensandbox_client.get_sandbox(restored.id)

    assert (described.snapshot_id, described.image) == (changed, "")


def test_a_snapshot_stays_while_a_sandbox_lives_on_it(sandbox_factory, opensandbox_client, keep):
    with sandbox_factory() as sandbox:
        snapshot = keep(sandbox)
    with sandbox_factory(snapshot=snapshot), pytest.raises(ConflictError, match="SNAPSHOT::DELETE_CONFLICT"):
        opensandbox_client.delete_snapshot(snapshot)

    assert opensandbox_client.delete_snapshot(snapshot)
    assert not opensandbox_client.delete_snapshot(snapshot)
    with pytest.raises(NotFoundError, match="SNAPSHOT::NOT_FOUND"):
        opensandbox_client.get_snapshot(snapshot)


def test_a_snapshot_of_a_snapshot_s_sandbox_outlives_it(sandbox_factory, opensandbox_client, keep):
    with sandbox_factory() as sandbox:
        sandbox.run("echo first > /root/first", check=True)
        first = keep(sandbox)
    with sandbox_factory(snapshot=first) as sandbox:
        second = keep(sandbox)

    opensandbox_client.delete_snapshot(first)

    with sandbox_factory(snapshot=second) as sandbox:
        assert sandbox.run("cat /root/first").stdout == "first\n"


def test_a_paused_sandbox_is_not_kept(sandbox_factory, opensandbox_client):
    with sandbox_factory() as sandbox:
        opensandbox_client.pause(sandbox.id)

        with pytest.raises(ConflictError, match="SNAPSHOT::INVALID_SOURCE_STATE"):
            opensandbox_client.create_snapshot(sandbox.id)
        opensandbox_client.resume(sandbox.id)


def test_snapshots_are_found_by_name_and_by_sandbox(sandbox_factory, opensandbox_client, keep):
    name = f"name of {uuid4()}"
    with sandbox_factory() as sandbox:
        older, newer = keep(sandbox), keep(sandbox, name)

    assert [snapshot.id for snapshot in opensandbox_client.list_snapshots(name=name)] == [newer]
    assert [snapshot.id for snapshot in opensandbox_client.list_snapshots(sandbox.id)] == [newer, older]


def test_an_unknown_snapshot_cannot_be_restored(opensandbox_client):
    with pytest.raises(NotFoundError, match="SNAPSHOT::NOT_FOUND"):
        opensandbox_client.create_sandbox(SandboxOpts(image=None, snapshot_id="none"))


def test_an_unknown_sandbox_cannot_be_kept(opensandbox_client):
    with pytest.raises(NotFoundError):
        opensandbox_client.create_snapshot("none")
