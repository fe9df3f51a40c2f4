"""The copier on trees of this machine: what it copies, and its limits."""

import os
import threading
import time

import pytest

from pytest_opensandbox.embedded.copier.__main__ import copy
from pytest_opensandbox.embedded.copier.errors import RefusedError
from pytest_opensandbox.embedded.copier.tree import DIRECTORY, Budget, Tree, opened


@pytest.fixture
def source(tmp_path):
    (path := tmp_path / "source").mkdir()
    return path


@pytest.fixture
def target(tmp_path):
    (path := tmp_path / "target").mkdir()
    return path


@pytest.fixture
def copied(source, target):
    """Copies the source tree to the target."""

    def run(*, fixed=(), is_overlay=False, entries=1000, size=1 << 20):
        with opened(str(source), DIRECTORY, 0) as reading, opened(str(target), DIRECTORY, 0) as writing:
            Tree(reading, writing, fixed=list(fixed), is_overlay=is_overlay, budget=Budget(entries, size)).copy()
        return sorted(str(path.relative_to(target)) for path in target.rglob("*"))

    return run


def test_it_gives_up_at_the_last_entry_but_one(source, copied):
    for name in "abc":
        (source / name).touch()

    with pytest.raises(RefusedError, match="more than 2 files and directories"):
        copied(entries=2)


def test_it_takes_as_many_entries_as_it_may(source, copied):
    for name in "abc":
        (source / name).touch()

    assert copied(entries=3) == ["a", "b", "c"]


def test_it_gives_up_at_too_much_content(source, copied):
    (source / "a").write_bytes(b"x" * 1000)

    with pytest.raises(RefusedError, match="more than 999 bytes"):
        copied(size=999)


def test_holes_count_for_nothing_and_stay(source, target, copied):
    with open(source / "a", "wb") as file:
        for offset in (0, 1 << 30, 1 << 40):
            file.seek(offset)
            file.write(b"data")
        file.truncate(1 << 41)

    copied(size=64 << 10)

    status = (target / "a").stat()
    assert (status.st_size, status.st_blocks * 512 < 64 << 10) == (1 << 41, True)
    with open(target / "a", "rb") as file:
        file.seek(1 << 40)
        assert file.read(8) == b"data\0\0\0\0"


def test_it_gives_up_at_paths_that_could_not_be_deleted(source, copied):
    here = os.open(source, DIRECTORY)
    for _ in range(20):
        os.mkdir("d" * 200, dir_fd=here)
        here = os.open("d" * 200, DIRECTORY, dir_fd=here)

    with pytest.raises(RefusedError, match="paths of more than 3000 bytes"):
        copied()


def test_what_lies_above_a_mount_is_kept_only_as_a_directory(source, copied):
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "mount").touch()
    (source / "a" / "b" / "other").touch()
    (source / "c").symlink_to("/etc")

    kept = copied(fixed=["a/b/mount", "c/d/mount"])

    assert kept == ["a", "a/b", "a/b/other"]


def test_links_are_never_followed(source, target, copied, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (source / "link").symlink_to(tmp_path / "outside")

    assert copied() == ["link"]
    assert os.readlink(target / "link") == str(tmp_path / "outside")


def test_other_mounts_in_the_tree_are_left_out(target):
    mounts = {name for name in os.listdir("/dev") if os.path.ismount(f"/dev/{name}") and os.path.isdir(f"/dev/{name}")}

    with opened("/dev", DIRECTORY, 0) as reading, opened(str(target), DIRECTORY, 0) as writing:
        Tree(reading, writing, fixed=[], is_overlay=False, budget=Budget(10_000, 1 << 20)).copy()

    assert "shm" in mounts
    assert (target / "fd").is_symlink()
    assert mounts.isdisjoint(os.listdir(target))


@pytest.mark.parametrize("is_overlay", [True, False])
def test_deletions_are_marked_only_in_overlays(source, target, copied, is_overlay):
    os.mknod(source / "gone", 0o20000, 0)

    assert copied(is_overlay=is_overlay) == (["gone"] if is_overlay else [])


@pytest.mark.parametrize("is_overlay", [True, False])
def test_replaced_directories_are_marked_only_in_overlays(source, target, copied, is_overlay):
    (source / "new").mkdir()
    os.setxattr(source / "new", "user.overlay.opaque", b"y")
    os.setxattr(source / "new", "user.overlay.redirect", b"/etc")
    os.setxattr(source / "new", "user.own", b"kept")

    copied(is_overlay=is_overlay)

    assert sorted(os.listxattr(target / "new")) == [*(["user.overlay.opaque"] if is_overlay else []), "user.own"]


def test_a_tree_that_changes_all_the_time_is_copied_all_the_same(source, copied, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    (source / "dir").mkdir()
    (source / "dir" / "mine").touch()
    is_over = threading.Event()

    def swap():
        while not is_over.is_set():
            os.rename(source / "dir", source / "away")
            os.symlink(tmp_path / "outside", source / "dir")
            os.unlink(source / "dir")
            os.rename(source / "away", source / "dir")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        seen = {name for _ in range(50) for name in _again(copied, tmp_path / "target")}
    finally:
        is_over.set()
        swapping.join()

    assert seen <= {"dir", "away", "dir/mine", "away/mine"}


def _again(copied, target):
    """Copy, and clear the target for the next time."""
    kept = copied()
    target.rename(target.with_name(f"target-{time.monotonic_ns()}"))
    target.mkdir()
    return kept


def test_trees_are_copied_by_name(source, target):
    for name in ("private", "usr", "other"):
        (source / name).mkdir()
        (source / name / "file").touch()
    how = {"fixed": [], "is_overlay": False}

    copy(
        {
            "source": str(source),
            "target": str(target),
            "trees": {"private": how, "usr": how},
            "entries": 10,
            "bytes": 10,
        }
    )

    assert sorted(path.name for path in target.iterdir()) == ["private", "usr"]
