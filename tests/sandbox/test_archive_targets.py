"""Extracting into a target that exists: any tar changes nothing or the target only."""

import io
import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_opensandbox.errors import FileTooLargeError, ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree
from tests.sandbox.tars import archive_of, directory, entry, hard_link, link
from tests.sandbox.trees import tree_state

LIMIT = 10_000_000


def extract(target, *entries, **options):
    extract_tree(archive_of(*entries), target, ArchiveBudget(LIMIT), **options)
    return target


@pytest.fixture
def host(tmp_path) -> Path:
    """A directory of the host beside the target, with a file that a hostile sandbox would like to change."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_text("of the host")
    return host


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(
            [link("c", "x/x/x"), directory("x/x/x"), link("report", "c/../../../../host/file"), directory("c")],
            id="a link that a directory replaces",
        ),
        pytest.param(
            [directory("c"), link("report", "c/../../host/file"), link("c", "x/x")], id="a directory, then a link"
        ),
        pytest.param([link("c", "a/b"), link("report", "c/../../host/file"), entry("c")], id="a link, then a file"),
        pytest.param([link("d/l", "../x"), hard_link("l", "d/l")], id="a hard link that takes a link elsewhere"),
        pytest.param([link("l", "missing/../../host/file")], id="a way back from what is not there"),
        pytest.param([entry("f"), link("l", "f/../../host/file")], id="a way back from a file"),
    ],
)
def test_a_link_is_validated_against_the_complete_tree(tmp_path, host, entries):
    before = tree_state(tmp_path)

    with pytest.raises(UnsafeArchiveError):
        extract(tmp_path / "target", *entries)

    assert tree_state(tmp_path) == before


def test_two_trees_in_one_directory_do_not_lead_out_together(tmp_path, host):
    target = extract(tmp_path / "target", link("p", "."), directory("q/r"))
    before = tree_state(tmp_path)

    with pytest.raises(UnsafeArchiveError, match="links outside"):
        extract(target, link("a", "p/q/r/../../../host/file"))

    assert tree_state(tmp_path) == before


def test_a_later_tree_cannot_redirect_a_link_of_an_earlier_one(tmp_path, host):
    target = extract(tmp_path / "target", directory("d/e"), link("safe", "d/e/../../file"))

    with pytest.raises(UnsafeArchiveError, match="a directory there"):
        extract(target, link("d", "."))

    assert os.path.realpath(target / "safe") == str(target / "file")


def test_a_refusal_leaves_no_trace_behind_a_link_of_the_user(tmp_path, host):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").symlink_to(host)
    before = tree_state(tmp_path)

    with pytest.raises(UnsafeArchiveError, match="leads outside"):
        extract(target, entry("first"), entry("mine/new/evil"))

    assert tree_state(tmp_path) == before


def test_an_existing_link_is_not_followed_for_a_directory_either(tmp_path, host):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").symlink_to(host)
    before = tree_state(tmp_path)

    with pytest.raises(UnsafeArchiveError, match="not followed"):
        extract(target, directory("mine", 0o700))

    assert tree_state(tmp_path) == before


def test_a_file_of_the_target_is_not_what_a_hard_link_names(tmp_path, host):
    target = tmp_path / "target"
    target.mkdir()
    (target / "secret").write_text("of the user")
    before = tree_state(tmp_path)

    with pytest.raises(UnsafeArchiveError, match="no file before it"):
        extract(target, hard_link("copy", "secret"))

    assert tree_state(tmp_path) == before


def test_a_hard_link_of_the_target_keeps_its_other_name(tmp_path, host):
    target = tmp_path / "target"
    target.mkdir()
    os.link(host / "file", target / "file")

    extract(target, entry("file"))

    assert (host / "file").read_text() == "of the host"
    assert (target / "file").read_text() == "from the sandbox"


def test_a_directory_of_the_target_is_not_replaced(tmp_path):
    target = tmp_path / "target"
    (target / "name").mkdir(parents=True)
    (target / "name" / "file").write_text("of the user")
    before = tree_state(tmp_path)

    for evil in (entry("name"), link("name", "x")):
        with pytest.raises(UnsafeArchiveError, match="a directory there"):
            extract(target, entry("first"), evil)

    assert tree_state(tmp_path) == before


def test_a_file_of_the_target_gives_way_to_a_directory(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "name").write_text("old")

    extract(target, entry("name/file"))

    assert (target / "name" / "file").read_text() == "from the sandbox"


def test_a_target_that_is_a_link_to_a_directory_is_that_directory(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "target").symlink_to("real")

    extract(tmp_path / "target", entry("file"))

    assert (tmp_path / "target").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "from the sandbox"


@pytest.mark.parametrize("leads_to", ["nowhere", "host/file"])
def test_a_target_that_is_a_link_to_something_else_is_refused(tmp_path, host, leads_to):
    (tmp_path / "target").symlink_to(leads_to)
    before = tree_state(tmp_path)

    with pytest.raises(FileExistsError):
        extract(tmp_path / "target", entry("file"))

    assert tree_state(tmp_path) == before


def test_hard_linked_links_are_links(tmp_path):
    target = extract(tmp_path / "target", link("l1", "a"), hard_link("l2", "l1"), entry("d/f"), hard_link("f", "d/f"))

    assert [os.readlink(target / name) for name in ("l1", "l2")] == ["a", "a"]
    assert os.path.samefile(target / "f", target / "d/f")


@pytest.mark.parametrize("name", ["self", "./self"])
def test_a_hard_link_to_itself_is_refused(tmp_path, name):
    with pytest.raises(UnsafeArchiveError, match="hard link"):
        extract(tmp_path / "target", entry("self"), hard_link("self", name))

    assert list(tmp_path.iterdir()) == []


def test_a_later_entry_replaces_an_earlier_one(tmp_path):
    target = extract(tmp_path / "target", link("x", "y"), entry("x"), entry("z"), link("z", "x"))

    assert (target / "x").read_bytes() == b"from the sandbox"
    assert os.readlink(target / "z") == "x"


def test_a_closed_directory_is_filled_again(tmp_path):
    tree = [directory("d", 0o555), entry("d/file", mode=0o444)]
    target = extract(tmp_path / "target", *tree)

    extract(target, *tree, entry("d/new"))

    assert sorted(os.listdir(target / "d")) == ["file", "new"]
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555


def test_a_target_in_a_closed_directory_is_filled_from_within(tmp_path):
    target = tmp_path / "closed" / "target"
    target.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o555)

    extract(target, entry("file"))

    assert os.listdir(target) == ["file"]


def test_a_content_that_breaks_off_leaves_no_trace(tmp_path):
    whole = archive_of(entry("a"), entry("b"), content=b"x" * 5000).getvalue()
    (tmp_path / "target").mkdir()
    before = tree_state(tmp_path)

    with pytest.raises(ProtocolError):
        extract_tree(io.BytesIO(whole[:9000]), tmp_path / "target", ArchiveBudget(LIMIT))
    with pytest.raises(FileTooLargeError):
        extract_tree(io.BytesIO(whole), tmp_path / "target", ArchiveBudget(9_000))

    assert tree_state(tmp_path) == before


@contextmanager
def few_descriptors(more):
    """Let this process open ``more`` additional files only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] <= highest:
        fillers.append(os.dup(fillers[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


@pytest.mark.parametrize("more", [0, 1, 2, 3, 20])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_lack_of_descriptors_leaves_no_trace(tmp_path, more, is_there):
    tree = archive_of(entry("a/" * 200 + "file"))
    if is_there:
        (tmp_path / "target").mkdir()
    before = tree_state(tmp_path)

    with few_descriptors(more), pytest.raises(OSError, match="Too many open files"):
        extract_tree(tree, tmp_path / "target", ArchiveBudget(LIMIT))

    assert tree_state(tmp_path) == before


MOUNTED = """
import io, os, sys
from pathlib import Path
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree

try:
    extract_tree(io.BytesIO(sys.stdin.buffer.read()), Path(sys.argv[1]), ArchiveBudget(1000))
except OSError as error:
    print(error.strerror, error.filename, sorted(os.listdir(sys.argv[1])), oct(os.stat(sys.argv[1] + "/m").st_mode))
"""


def test_a_mount_in_the_target_is_found_before_anything_is_moved(tmp_path):
    (tmp_path / "target" / "m").mkdir(parents=True)
    tree = archive_of(directory("m", 0o700), entry("m/file"), *(entry(name) for name in "abcxyz"))
    mount = 'mount -t tmpfs -o mode=755 none "$3/m" && exec "$1" -c "$2" "$3"'

    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, MOUNTED, tmp_path / "target"],
        input=tree.getvalue(),
        capture_output=True,
        check=False,
    )

    assert result.stdout.decode() == "the target has another file system there m ['m'] 0o40755\n", result.stderr


def test_many_copies_into_one_directory_at_once_all_arrive(tmp_path):
    def copy(number):
        tree = [entry("both"), entry(f"sub/{number}"), entry(f"{number}")]
        closed = [directory("closed", 0o555), directory("closed/too", 0o555), entry(f"closed/too/{number}")]
        return extract(tmp_path / "new" / "target", *tree, *closed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, range(16)))

    assert len(list((tmp_path / "new").rglob("*"))) == 1 + 1 + 16 + 1 + 16 + 2 + 16
    assert stat.S_IMODE((tmp_path / "new" / "target" / "closed" / "too").stat().st_mode) == 0o555


THROUGH = [link("x", "mine/file"), link("d/y", "../mine/../mine"), link("z", "d/../mine/sub"), directory("d")]


@pytest.mark.parametrize("evil", THROUGH[:3], ids=lambda evil: evil.linkname)
def test_a_link_does_not_lead_out_through_a_link_of_the_user(tmp_path, host, evil):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").symlink_to(host)
    before = tree_state(tmp_path)

    with pytest.raises(UnsafeArchiveError, match="links outside"):
        extract(target, entry("first"), THROUGH[3], evil)
    assert tree_state(tmp_path) == before

    extract(target, entry("first"), THROUGH[3], evil, links="skip")
    assert sorted(path.name for path in target.iterdir()) == ["d", "first", "mine"]
    assert list((target / "d").iterdir()) == []


def test_a_link_to_a_name_that_no_file_can_have_leads_nowhere(tmp_path):
    (tmp_path / "target").mkdir()

    target = extract(tmp_path / "target", link("l", "n" * 256 + "/x"))

    assert os.readlink(target / "l") == "n" * 256 + "/x"


def test_a_link_may_lead_through_a_link_of_the_user_that_stays_inside(tmp_path):
    target = tmp_path / "target"
    (target / "v1").mkdir(parents=True)
    (target / "current").symlink_to("v1")
    (target / "old").symlink_to("/etc")

    extract(target, link("d/x", "../current/file"), link("old", "v1"), link("y", "old/file"), link("w", "d/x"))

    assert os.readlink(target / "d" / "x") == "../current/file"
    assert os.path.realpath(target / "y") == str(target / "v1" / "file")


OUTSIDE = [link("python", "/usr/bin/python3"), link("up", "../up"), hard_link("again", "python"), link("in", "file")]


def test_links_that_lead_outside_are_left_out_where_asked(tmp_path):
    target = extract(tmp_path / "target", entry("file"), *OUTSIDE, links="skip")

    assert sorted(os.listdir(target)) == ["file", "in"]


def test_links_that_lead_outside_are_kept_where_asked(tmp_path):
    target = extract(tmp_path / "target", entry("file"), *OUTSIDE, links="keep")

    assert os.readlink(target / "python") == os.readlink(target / "again") == "/usr/bin/python3"
    assert os.readlink(target / "up") == "../up"


def test_a_kept_link_is_not_written_through(tmp_path, host):
    with pytest.raises(UnsafeArchiveError, match="goes through"):
        extract(tmp_path / "target", link("out", str(host)), entry("out/file"), links="keep")

    target = extract(tmp_path / "target", link("out", str(host)), links="keep")
    with pytest.raises(UnsafeArchiveError, match="not followed"):
        extract(target, entry("out/file"), links="keep")
    assert (host / "file").read_text() == "of the host"
