"""The transfer scripts with each shell of this machine, as root and as an ordinary user."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_opensandbox.sandbox.archives import pack_tree
from pytest_opensandbox.sandbox.transfer_scripts import PACK_TREE, PLACE_FILE, UNPACK_TREE

pytestmark = pytest.mark.thorough

NOBODY = 65534
APPLETS = ("sh", "tar", "mv", "rm", "mkdir", "chmod", "cat", "readlink", "ls")
USERS = [None, NOBODY] if os.geteuid() == 0 else [None]


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    public = Path(tempfile.mkdtemp(prefix="public-scripts-", dir="/var/tmp"))
    public.chmod(0o755)
    yield public
    subprocess.run(["chmod", "-R", "u+rwx", public], check=True)
    shutil.rmtree(public)


@pytest.fixture(params=["sh", "bash", "busybox"])
def shell(request, public) -> dict[str, str]:
    """An environment in which ``sh`` is one of the shells, and the programs are those that come with it."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"there is no {request.param} on this machine")
    folder = public / "bin"
    folder.mkdir()
    for name in APPLETS if request.param == "busybox" else ("sh",):
        (folder / name).symlink_to(program)
    return {"PATH": str(folder) if request.param == "busybox" else f"{folder}:{os.environ['PATH']}"}


@pytest.fixture(params=USERS, ids=lambda user: f"as {user or 'this user'}")
def user(request) -> int | None:
    return request.param


@pytest.fixture
def place(public) -> Path:
    """A directory that belongs to the user who runs the scripts."""
    place = public / "place"
    place.mkdir()
    return place


class Scripts:
    """Runs the scripts as they run in a sandbox."""

    def __init__(self, environment, user, place):
        self._environment, self._user, self._place = environment, user, place

    def run(self, script, *arguments):
        """Run a script as the user, after giving the user everything in the place."""
        if self._user is not None:
            for path in [self._place, *self._place.rglob("*")]:
                os.chown(path, self._user, self._user, follow_symlinks=False)
        command = ["sh", "-c", script, "sh", *map(str, arguments)]
        identity = {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, **identity)

    def unpack(self, source, target, mode="755"):
        """Put a tree as ``Sandbox.put`` does."""
        with (self._place / "archive").open("wb") as archive:
            pack_tree(source, archive, closing_script="free-name.sh")
        return self.run(UNPACK_TREE, self._place / "archive", target, mode, "free-name")


@pytest.fixture
def scripts(shell, user, place) -> Scripts:
    return Scripts(shell, user, place)


def tree(root, *paths):
    """Make files with their own names as content; a path with a final slash is a directory."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_text(path)
    return root


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def leftovers(place):
    return [path for path in place.rglob("*") if path.name in ("archive", "free-name")]


def test_a_tree_goes_behind_a_link_to_a_directory(scripts, place, tmp_path):
    target = tree(place / "root", "usr/bin/sh", "usr/lib/")
    (target / "bin").symlink_to("usr/bin")
    (target / "lib64").symlink_to(target / "usr/lib")
    source = tree(tmp_path / "source", "bin/tool", "bin/.hidden", "lib64/deep/library", "bin/..odd", "bin/- a\n*b")

    result = scripts.unpack(source, target)

    assert (result.returncode, result.stderr) == (0, "")
    assert (target / "bin").is_symlink()
    assert (target / "lib64").is_symlink()
    assert sorted(os.listdir(target / "usr/bin")) == ["- a\n*b", "..odd", ".hidden", "sh", "tool"]
    assert (target / "usr/lib/deep/library").read_text() == "lib64/deep/library"
    assert leftovers(place) == []


@pytest.mark.parametrize(
    ("there", "new", "what"),
    [
        pytest.param("name/file", "name", "is a directory", id="a file over a directory"),
        pytest.param("name", "name/file", "not a directory", id="a directory over a file"),
        pytest.param("a/name/", "a/name", "is a directory", id="a file over an empty directory"),
        pytest.param("usr/bin/sh", "bin", "is a directory", id="a file over a link to a directory"),
        pytest.param("gone", "dangling/file", "not a directory", id="a directory over a link to nothing"),
    ],
)
def test_what_would_be_lost_is_named_and_nothing_is_changed(scripts, place, tmp_path, there, new, what):
    target = tree(place / "root", there)
    (target / "bin").symlink_to("usr/bin")
    (target / "dangling").symlink_to("nowhere")
    before = sorted(target.rglob("*"))
    source = tree(tmp_path / "source", "0-first", new, "zzz-last")

    result = scripts.unpack(source, target)

    assert result.returncode != 0
    assert what in result.stderr
    assert str(target / new.split("/file")[0]) in result.stderr
    assert sorted(target.rglob("*")) == before


def test_a_link_takes_the_place_of_a_link(scripts, place, tmp_path):
    target = tree(place / "root", "v1/file", "v2/file")
    (target / "current").symlink_to("v1")
    source = tree(tmp_path / "source", "file")
    (source / "current").symlink_to("v2")

    result = scripts.unpack(source, target)

    assert (result.returncode, result.stderr) == (0, "")
    assert os.readlink(target / "current") == "v2"
    assert os.listdir(target / "v1") == ["file"]


@pytest.mark.parametrize("root", ["new", "empty", "existing", "closed", "closed and empty"])
def test_closed_directories_arrive_closed_and_can_be_put_again(scripts, place, tmp_path, root):
    target = place / "root"
    source = tree(tmp_path / "source", "mod/a/go.mod", "mod/a/b/c.go", "mod/z")
    if root != "new":
        tree(target.parent, "root/", *([] if "empty" in root else ["root/old"]))
    if "closed" in root:
        target.chmod(0o555)
    for name in ("mod/a/b", "mod/a", "mod"):
        (source / name).chmod(0o555)

    results = [scripts.unpack(source, target, "755") for _ in range(2)]

    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 2
    assert [mode(target / name) for name in ("mod/a/b", "mod/a", "mod")] == [0o555] * 3
    assert (target / "mod/a/b/c.go").read_text() == "mod/a/b/c.go"
    assert mode(target) == (0o555 if "closed" in root else 0o755)
    assert leftovers(place) == []


@pytest.mark.parametrize("what", ["file", "tree"])
def test_directories_are_made_in_a_closed_one(scripts, place, tmp_path, what):
    closed = tree(place / "closed", "old").absolute()
    (place / "uploaded").write_text("content")
    closed.chmod(0o555)
    target = closed / "new" / "deep"

    if what == "tree":
        result = scripts.unpack(tree(tmp_path / "source", "file"), target)
    else:
        result = scripts.run(PLACE_FILE, place / "uploaded", target, target / "file", "640", "free-name")

    assert (result.returncode, result.stderr) == (0, "")
    assert os.listdir(target) == ["file"]
    assert mode(closed) == 0o555


def test_a_new_root_may_be_closed(scripts, place, tmp_path):
    source = tree(tmp_path / "source", "file")

    result = scripts.unpack(source, place / "new" / "root", "555")

    assert (result.stderr, result.returncode, mode(place / "new" / "root")) == ("", 0, 0o555)
    assert os.listdir(place / "new" / "root") == ["file"]


def test_directories_that_are_there_keep_their_modes(scripts, place, tmp_path):
    target = tree(place / "root", "tmp/", "private/")
    (target / "tmp").chmod(0o1777)
    (target / "private").chmod(0o700)
    source = tree(tmp_path / "source", "tmp/file", "private/file", "new/file")

    scripts.unpack(source, target)

    assert [mode(target / name) for name in ("tmp", "private", "new")] == [0o1777, 0o700, 0o755]


@pytest.mark.parametrize("count", [900, 1111])
def test_read_only_files_and_many_of_them_are_replaced(scripts, place, tmp_path, count):
    names = [f"many/{number}" for number in range(count)]
    target, source = tree(place / "root", *names), tree(tmp_path / "source", *names)
    for name in names:
        (target / name).write_text("old")
        (target / name).chmod(0o444)

    result = scripts.unpack(source, target)

    assert (result.returncode, result.stderr) == (0, "")
    assert {(target / name).read_text() for name in names} == set(names)


def test_a_running_program_is_replaced(scripts, place, tmp_path):
    target = place / "root"
    (target / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("sleep"), target / "bin" / "program")
    shutil.copy(target / "bin" / "program", target / "program")
    (target / "link").symlink_to("program")
    (place / "uploaded").write_text("new")
    source = tree(tmp_path / "source", "bin/program")

    with (
        subprocess.Popen([target / "bin" / "program", "60"]) as first,
        subprocess.Popen([target / "program", "60"]) as second,
    ):
        of_tree = scripts.unpack(source, target)
        of_file = scripts.run(PLACE_FILE, place / "uploaded", target, target / "link", "750", "free-name")
        first.kill()
        second.kill()

    assert [(result.returncode, result.stderr) for result in (of_tree, of_file)] == [(0, "")] * 2
    assert (target / "bin/program").read_text() == "bin/program"
    assert ((target / "program").read_text(), mode(target / "program")) == ("new", 0o750)
    assert (target / "link").is_symlink()


@pytest.mark.parametrize("name", ["new", "old", "two\nlines\n", "- $x"])
@pytest.mark.parametrize("bits", ["0", "444", "755"])
def test_a_file_is_placed_in_a_closed_directory(scripts, place, name, bits):
    target = tree(place / "root", "old")
    (target / "old").chmod(0o444)
    (place / "uploaded").write_text("content")
    target.chmod(0o555)

    result = scripts.run(PLACE_FILE, place / "uploaded", target, target / name, bits, "free-name")

    assert (result.returncode, result.stderr) == (0, "")
    assert f"{mode(target / name):o}" == bits
    assert mode(target) == 0o555
    (target / name).chmod(0o600)
    assert (target / name).read_text() == "content"
    assert leftovers(place) == []


def test_a_tree_that_cannot_be_read_is_not_packed(scripts, place, user):
    if user is None and os.geteuid() == 0:
        pytest.skip("root reads everything")
    source = tree(place / "source", "file")
    (source / "file").chmod(0)

    result = scripts.run(PACK_TREE, 10**9, place / "archive", source)

    assert result.returncode != 0


@pytest.mark.parametrize(
    ("version", "status", "expected"),
    [
        pytest.param("tar (GNU tar) 1.34", 1, 0, id="a file changed"),
        pytest.param("tar (GNU tar) 1.34", 2, 2, id="a file cannot be read"),
        pytest.param("bsdtar 3.6.2 - libarchive 3.6.2", 1, 1, id="another program's only error"),
    ],
)
def test_a_file_that_changes_while_it_is_packed_is_no_error(place, version, status, expected):
    tool = place / "tar"
    tool.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\nexit {status}\n')
    tool.chmod(0o755)
    scripts = Scripts({"PATH": f"{place}:{os.environ['PATH']}"}, None, place)

    result = scripts.run(PACK_TREE, 1000, place / "archive", place)

    assert result.returncode == expected
