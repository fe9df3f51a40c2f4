"""Copies in and out of embedded sandboxes, whose root may not override modes, for each user of a server."""

import os
import stat
from collections.abc import Iterator

import pytest

from pytest_opensandbox import Client, Sandbox, SandboxOpts
from pytest_opensandbox.sandbox.lifecycle import Lifecycle
from pytest_opensandbox.sandbox.tracking import RunTags
from tests.embedded.machine import USERS, running_server


@pytest.fixture(scope="module", params=USERS)
def lifecycle(request) -> Iterator[Lifecycle]:
    """Creates sandboxes on the server of one user."""
    with running_server(user=request.param) as machine:
        lifecycle = Lifecycle(Client(machine.url, machine.api_key), tags=RunTags("copies"))
        yield lifecycle
        lifecycle.close()


@pytest.fixture
def own(lifecycle) -> Iterator[Sandbox]:
    """A sandbox for one test."""
    with Sandbox.launch(lifecycle, SandboxOpts(image="host")) as sandbox:
        yield sandbox


def test_a_tree_with_bin_leaves_the_system_alive(own, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("x")

    own.put(tmp_path, "/")

    assert own.run(["/bin/sh", "-c", "echo alive; cat /usr/bin/tool"]).stdout == "alive\nx"


def test_a_tree_that_changes_can_be_copied(own, tmp_path):
    own.run("mkdir /srv/a && head -c 20000000 /dev/zero >/srv/a/old", check=True)
    own.run("(while :; do echo line >>/srv/a/log; done) >/dev/null 2>&1 &")

    copies = [own.get("/srv/a", tmp_path / str(number)) for number in range(4)]

    assert all((copy / "log").exists() for copy in copies)


def test_hard_linked_links_are_copied(own, tmp_path):
    own.run("mkdir /srv/h && cd /srv/h && ln -s a l1 && ln l1 l2", check=True)

    assert sorted(os.listdir(own.get("/srv/h", tmp_path / "h"))) == ["l1", "l2"]


@pytest.mark.parametrize("mode", [0o444, 0])
def test_a_file_that_may_not_be_written_is_replaced(own, mode):
    for content in (b"1", b"22"):
        own.put(content, "/srv/f", mode=mode)

    assert own.run(["stat", "-c", "%a %s", "/srv/f"]).stdout == f"{mode:o} 2\n"


def test_read_only_directories_are_put_and_written_in(own, tmp_path):
    source = tmp_path / "source"
    (source / "mod").mkdir(parents=True)
    (source / "mod" / "go.mod").write_text("m")
    (source / "mod").chmod(0o555)

    for _ in range(2):
        own.put(source, "/srv/t")
    own.put("new", "/srv/t/mod/new", mode=0o600)
    copy = own.get("/srv/t", tmp_path / "copy")

    assert sorted(path.read_text() for path in (copy / "mod").iterdir()) == ["m", "new"]
    assert stat.S_IMODE((copy / "mod").stat().st_mode) == 0o555


@pytest.mark.parametrize("way", ["file", "tree"])
def test_a_running_program_is_replaced(own, tmp_path, way):
    own.run("mkdir /opt/own && cp $(command -v sleep) /opt/own/program", check=True)
    own.run("/opt/own/program 300 >/dev/null 2>&1 &", check=True)
    (tmp_path / "program").write_text("new")

    own.put(*((tmp_path / "program", "/opt/own/program") if way == "file" else (tmp_path, "/opt/own")))

    assert own.get("/opt/own/program") == b"new"


def test_a_name_with_control_characters_is_kept(own, tmp_path):
    own.put(b"x", "/srv/a\x01b\x7f\n")

    assert own.get("/srv/a\x01b\x7f\n") == b"x"
    assert own.get("/srv/a\x01b\x7f\n", tmp_path / "copy").read_bytes() == b"x"
