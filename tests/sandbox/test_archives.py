"""Packing and extracting: a tree comes back unchanged, and a hostile tar changes nothing."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_opensandbox.errors import FileTooLargeError, ProtocolError, SkippedFileWarning, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree, pack_tree
from tests.sandbox.tars import archive_of, entry
from tests.sandbox.trees import tree_state

MEBIBYTE = 1024 * 1024


def packed(source: Path) -> io.BytesIO:
    archive = io.BytesIO()
    pack_tree(source, archive)
    archive.seek(0)
    return archive


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 60
)
modes = st.sampled_from([0o400, 0o600, 0o644, 0o664, 0o755, 0o777])
trees = st.recursive(
    st.tuples(st.just("file"), st.binary(max_size=2000), modes) | st.tuples(st.just("link"), names),
    lambda inner: st.tuples(st.just("directory"), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)


def plant(path: Path, tree) -> None:
    if tree[0] == "link":
        path.symlink_to(tree[1])
    elif tree[0] == "file":
        path.write_bytes(tree[1])
        path.chmod(tree[2])
    else:
        path.mkdir()
        for name, inner in tree[1].items():
            plant(path / name, inner)


@settings(max_examples=60, deadline=None)
@given(entries=st.dictionaries(names, trees, max_size=4))
def test_a_tree_comes_back_as_it_was(tmp_path_factory, entries):
    source = tmp_path_factory.mktemp("source") / "root"
    plant(source, ("directory", entries))
    target = source.parent / "target"

    extract_tree(packed(source), target, ArchiveBudget(MEBIBYTE))

    assert tree_state(target, inodes=False) == tree_state(source, inodes=False)


def test_a_directory_without_write_permission_gets_its_content(tmp_path):
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    (source / "closed/file").write_text("x")
    (source / "closed").chmod(0o555)

    extract_tree(packed(source), tmp_path / "target", ArchiveBudget(MEBIBYTE))

    assert (tmp_path / "target/closed/file").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "target/closed").stat().st_mode) == 0o555


PROGRAMS = [
    *(f"tar --format={form}" for form in ("gnu", "oldgnu", "pax", "ustar", "v7")),
    *(f"tar --sparse --format={form}" for form in ("gnu", "oldgnu", "pax")),
    *(f"tar --sparse --sparse-version={version} --format=pax" for version in ("0.0", "0.1")),
    "busybox tar",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_archives_of_real_programs_are_read(tmp_path, program):
    if shutil.which(program.split()[0]) is None:
        pytest.skip(f"there is no such {program} on this machine")
    source = tmp_path / "source"
    plant(source, ("directory", {"d": ("directory", {"a b": ("file", b"x" * 1000, 0o640)}), "l": ("link", "d/a b")}))
    (source / "hard").hardlink_to(source / "d" / "a b")
    if not program.endswith(("ustar", "v7")):
        plant(source / ("n" * 200), ("file", b"y", 0o755))
        plant(source / ("grün" * 40), ("link", "z" * 150))
    with (source / "holes").open("wb") as file:
        for piece in range(40):
            file.seek(piece * 65536)
            file.write(b"data")
        file.truncate(40 * 65536)

    subprocess.run([*program.split(), "-c", "-f", tmp_path / "archive", "-C", source, "."], check=True)
    with (tmp_path / "archive").open("rb") as archive:
        extract_tree(archive, tmp_path / "target", ArchiveBudget(10 * MEBIBYTE))

    assert tree_state(tmp_path / "target", inodes=False) == tree_state(source, inodes=False)
    assert (tmp_path / "target" / "hard").samefile(tmp_path / "target" / "d" / "a b")


def test_special_files_are_left_out_with_a_warning(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "file").write_text("x")

    with pytest.warns(SkippedFileWarning, match="pipe"):
        archive = packed(source)

    with tarfile.open(fileobj=archive) as tar:
        assert tar.getnames() == ["file"]


def test_files_removed_while_a_tree_is_packed_are_left_out(tmp_path):
    source, data = tmp_path / "source", io.BytesIO()
    for name in ("a", "b/c"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("here")

    class Removing(io.BytesIO):
        def write(self, block):
            shutil.rmtree(source / "b", ignore_errors=True)
            return data.write(block)

    pack_tree(source, Removing())

    data.seek(0)
    with tarfile.open(fileobj=data) as tar:
        assert tar.getnames() == ["a"]


def test_a_target_that_exists_is_merged_into(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "new").write_text("new")
    (source / "both").write_text("from the sandbox")
    (target / "both").write_text("from before")
    (target / "old").write_text("old")

    extract_tree(packed(source), target, ArchiveBudget(MEBIBYTE))

    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "new": "new",
        "both": "from the sandbox",
        "old": "old",
    }


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("/etc/evil")], id="absolute name"),
        pytest.param([entry("../evil")], id="name with .."),
        pytest.param([entry("a/../../evil")], id="name with .. in the middle"),
        pytest.param([entry("out", tarfile.SYMTYPE, "/etc"), entry("out/evil")], id="through an absolute link"),
        pytest.param([entry("in", tarfile.SYMTYPE, "sub"), entry("in/evil")], id="through a link that stays inside"),
        pytest.param([entry("out", tarfile.SYMTYPE, "/etc/passwd")], id="absolute link"),
        pytest.param([entry("out", tarfile.SYMTYPE, "../outside")], id="link with .."),
        pytest.param([entry("a/out", tarfile.SYMTYPE, "b/../../../outside")], id="link with a late .."),
        pytest.param([entry("out", tarfile.LNKTYPE, "/etc/passwd")], id="absolute hard link"),
        pytest.param([entry("out", tarfile.LNKTYPE, "../outside")], id="hard link with .."),
        pytest.param([entry("disk", tarfile.BLKTYPE)], id="block device"),
        pytest.param([entry("null", tarfile.CHRTYPE)], id="character device"),
        pytest.param([entry("pipe", tarfile.FIFOTYPE)], id="FIFO"),
    ],
)
def test_a_hostile_entry_stops_everything(tmp_path, entries):
    target = tmp_path / "target"

    with pytest.raises(UnsafeArchiveError, match="refused to extract"):
        extract_tree(archive_of(entry("innocent"), *entries), target, ArchiveBudget(MEBIBYTE))

    assert list(tmp_path.iterdir()) == []


def test_an_existing_link_of_the_target_is_not_followed(tmp_path):
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "cache").symlink_to(outside)

    with pytest.raises(UnsafeArchiveError, match="leads outside"):
        extract_tree(archive_of(entry("cache/evil")), target, ArchiveBudget(MEBIBYTE))

    assert list(outside.iterdir()) == []


def test_an_existing_link_to_a_file_is_replaced(tmp_path):
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.write_text("mine")
    target.mkdir()
    (target / "file").symlink_to(outside)

    extract_tree(archive_of(entry("file"), content=b"theirs"), target, ArchiveBudget(MEBIBYTE))

    assert (outside.read_text(), (target / "file").read_text()) == ("mine", "theirs")


def test_setuid_bits_are_dropped(tmp_path):
    info = entry("tool")
    info.mode = 0o6755

    extract_tree(archive_of(info, content=b"#!/bin/sh\n"), tmp_path / "target", ArchiveBudget(MEBIBYTE))

    assert stat.S_IMODE((tmp_path / "target/tool").stat().st_mode) == 0o755


def test_more_bytes_than_allowed_are_refused_before_any_is_written(tmp_path):
    archive = archive_of(entry("a"), entry("b"), content=b"x" * 600)

    with pytest.raises(FileTooLargeError, match="1,000"):
        extract_tree(archive, tmp_path / "target", ArchiveBudget(1000))

    assert list(tmp_path.iterdir()) == []


def test_a_cut_archive_is_no_archive(tmp_path):
    whole = archive_of(entry("file"), content=b"x" * 5000).getvalue()

    with pytest.raises(ProtocolError, match="no complete tar archive"):
        extract_tree(io.BytesIO(whole[:3000]), tmp_path / "target", ArchiveBudget(MEBIBYTE))
