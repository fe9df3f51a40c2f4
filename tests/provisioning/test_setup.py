"""Setups: which texts are commands, which files count, and what changes the fingerprint."""

import os
from pathlib import PurePosixPath

import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.provisioning.setup import SandboxSetup, commands_of, targets_of


@pytest.fixture
def tree(tmp_path):
    """A tree with a file, a program, an empty directory and a link."""
    root = tmp_path / "tree"
    (root / "empty").mkdir(parents=True)
    (root / "file").write_text("text")
    (root / "program").write_text("#!/bin/sh")
    (root / "program").chmod(0o755)
    (root / "link").symlink_to("file")
    return root


def fingerprint(source, target="/in"):
    return SandboxSetup(commands=("true",), files=((source, target),)).fingerprint()


@pytest.mark.parametrize(
    ("setup", "commands"),
    [
        pytest.param("make", ("make",), id="one"),
        pytest.param("a\nb", ("a\nb",), id="a script"),
        pytest.param(["a", "b"], ("a", "b"), id="a list"),
        pytest.param(("a",), ("a",), id="a tuple"),
        pytest.param("", (), id="none"),
        pytest.param("  ", (), id="white space"),
        pytest.param([], (), id="an empty list"),
    ],
)
def test_a_setup_is_one_command_or_several(setup, commands):
    assert commands_of(setup) == commands


@pytest.mark.parametrize("setup", [3, b"a", [b"a"], ["a", ""], ["a", 1], {"a": 1}, "a\0b"])
def test_what_no_shell_can_be_given_is_no_setup(setup):
    with pytest.raises(ConfigError, match="setup must be a command for the shell, or a list of such commands"):
        commands_of(setup)


def test_paths_may_be_text_or_path_objects(tmp_path):
    put = {"a": "/in/a", tmp_path: PurePosixPath("/in/b")}

    assert targets_of(put) == {"a": "/in/a", str(tmp_path): "/in/b"}


@pytest.mark.parametrize(
    ("put", "field"),
    [
        pytest.param(["a"], "put", id="no mapping"),
        pytest.param({"": "/a"}, "put", id="no source"),
        pytest.param({1: "/a"}, "put", id="a number"),
        pytest.param({"a": "b"}, "put['a']", id="not absolute"),
        pytest.param({"a": None}, "put['a']", id="no target"),
    ],
)
def test_what_is_no_pair_of_paths_is_refused(put, field):
    with pytest.raises(ConfigError) as caught:
        targets_of(put)

    assert caught.value.field == field


def test_a_setup_without_commands_and_files_is_false():
    assert not SandboxSetup()
    assert SandboxSetup(commands=("a",))


def test_the_title_is_short_and_on_one_line():
    assert SandboxSetup(commands=("a\n  b", "c")).title == "a b; c"
    assert len(SandboxSetup(commands=("x" * 200,)).title) == 60


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "file").write_text("TEXT"), id="content"),
        pytest.param(lambda root: (root / "file").chmod(0o600), id="mode"),
        pytest.param(lambda root: (root / "file").rename(root / "other"), id="name"),
        pytest.param(lambda root: (root / "empty").rmdir(), id="empty directory gone"),
        pytest.param(lambda root: (root / "empty/new").touch(), id="new file"),
        pytest.param(lambda root: ((root / "link").unlink(), (root / "link").symlink_to("program")), id="link"),
        pytest.param(lambda root: root.chmod(0o700), id="mode of the root"),
    ],
)
def test_every_change_of_the_files_is_another_fingerprint(tree, change):
    tree.chmod(0o755)
    before = fingerprint(tree)

    change(tree)

    assert fingerprint(tree) != before


def test_times_do_not_count(tree):
    before = fingerprint(tree)

    os.utime(tree / "file", (1, 1))

    assert fingerprint(tree) == before


def test_the_target_and_the_commands_count(tree):
    prints = {fingerprint(tree), fingerprint(tree, "/elsewhere"), SandboxSetup(files=((tree, "/in"),)).fingerprint()}

    assert len(prints) == 3


def test_a_link_to_a_file_is_that_file(tree):
    assert fingerprint(tree / "link") == fingerprint(tree / "file")


def test_what_is_not_there_is_refused_by_its_name(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"^put must name a file or directory that this user can read, below the rootdir or by an absolute path"
        r" \(No such file or directory: /.*/gone\); got '/.*/gone'$",
    ):
        fingerprint(tmp_path / "gone")


def test_a_fifo_is_not_waited_for(tree):
    # A process that opens one for reading waits until another one writes.
    os.mkfifo(tree / "fifo")

    assert fingerprint(tree)
