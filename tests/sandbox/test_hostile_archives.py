"""Archives made to get out of their directory, to fill the memory, or to confuse the reader."""

import io
import os
import tarfile
import tempfile
from contextlib import suppress

import pytest

from pytest_opensandbox.errors import FileTooLargeError, ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree
from tests.sandbox.tars import entry, link, padded

LIMIT = 10_000_000


def raw_archive(*entries, content=b"", kind=tarfile.PAX_FORMAT):
    """Write headers unchecked, with the same content after each."""
    return io.BytesIO(b"".join(info.tobuf(kind) + padded(content) for info in entries) + bytes(1024))


def extract(data, tmp_path, budget=None, **options):
    target = tmp_path / "target"
    extract_tree(data, target, budget or ArchiveBudget(LIMIT), **options)
    return target


# Each of these links stays inside as long as the others are not followed.
@pytest.mark.parametrize(
    "links",
    [
        pytest.param([link("here", "."), link("out", "here/here/../..")], id="a link to where it is"),
        pytest.param([link("out", "here/here/../.."), link("here", ".")], id="whatever comes first"),
        pytest.param([link("a/b", "../a/c/../.."), link("a/c", "..")], id="a link that climbs a little"),
        pytest.param([link("x", "y/../z"), link("y", "z"), link("z", ".")], id="a chain"),
        pytest.param([link("d/up", ".."), link("d/out", "up/../x")], id="one link's climb and another's"),
    ],
)
def test_links_that_only_together_lead_outside_are_refused(tmp_path, links):
    with pytest.raises(UnsafeArchiveError, match="links outside the tree"):
        extract(raw_archive(*links), tmp_path)

    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    "links",
    [
        pytest.param([link("self", "self")], id="itself"),
        pytest.param([link("a", "b"), link("b", "a")], id="each other"),
        pytest.param([link("a", "b/b"), link("b", "a/a")], id="ever more of each other"),
        pytest.param([link("dir/a", "../b"), link("b", "missing/c")], id="something missing"),
        pytest.param([link("dir/a", "../dir/../b")], id="a way around that stays inside"),
    ],
)
def test_links_that_lead_nowhere_are_harmless(tmp_path, links):
    target = extract(raw_archive(*links), tmp_path)

    assert all(os.path.realpath(path).startswith(str(target)) for path in target.rglob("*"))


def test_a_hard_link_does_not_go_through_a_link_that_was_there_before(tmp_path):
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "out").symlink_to(tmp_path)

    with pytest.raises(UnsafeArchiveError):
        extract(raw_archive(entry("mine", tarfile.LNKTYPE, "out/secret")), tmp_path)

    assert not (tmp_path / "target" / "mine").exists()


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("x", path="a\0b")], id="NUL in a name"),
        pytest.param([entry("x" * 256)], id="a name that is too long"),
        pytest.param([entry("/".join("d" * 300))], id="too deep"),
        pytest.param([entry("a"), entry("a/b")], id="through a file"),
        pytest.param([entry("a/b"), entry("a")], id="in place of a directory"),
        pytest.param([entry("a/b"), link("a", "c")], id="a link in place of a directory"),
        pytest.param([link(".", "c")], id="a link in place of the root"),
        pytest.param([link("a", "")], id="a link to nothing"),
        pytest.param([link("a", "b" * 5000)], id="a link that is too long"),
    ],
)
def test_an_impossible_entry_is_refused_before_anything_is_written(tmp_path, entries):
    with pytest.raises(UnsafeArchiveError):
        extract(raw_archive(*entries), tmp_path)

    assert not list(tmp_path.rglob("*"))


def test_a_negative_size_does_not_send_the_reader_back(tmp_path):
    backwards = entry("a")
    backwards.pax_headers = {"size": "-1024"}

    with pytest.raises((UnsafeArchiveError, ProtocolError)):
        extract(raw_archive(backwards), tmp_path)

    assert not list(tmp_path.rglob("*"))


def sparse(**keys):
    return entry("x", **{f"GNU.sparse.{key}": value for key, value in keys.items()})


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(sparse(major="1", minor="0", realsize=str(2**40), name="s"), id="a terabyte of holes"),
        pytest.param(sparse(major="1", minor="0", realsize="-5", name="s"), id="less than nothing"),
        pytest.param(sparse(size="x", map="1,2,3,x"), id="no numbers"),
        pytest.param(sparse(major="1", minor="0", realsize="nan", name="s"), id="not a number"),
    ],
)
def test_holes_count_as_what_they_would_take(tmp_path, entry):
    with pytest.raises((FileTooLargeError, ProtocolError, UnsafeArchiveError)):
        extract(raw_archive(entry, content=b"0\n"), tmp_path)

    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(tarfile.GNUTYPE_LONGNAME, id="a name"),
        pytest.param(tarfile.GNUTYPE_LONGLINK, id="a link"),
        pytest.param(tarfile.XHDTYPE, id="a header of pax"),
    ],
)
def test_a_header_as_long_as_a_disk_is_not_read_into_memory(tmp_path, kind):
    with tempfile.TemporaryFile() as file:
        file.write(entry("long", kind, size=8 * 1024**3).tobuf(tarfile.GNU_FORMAT))
        file.truncate(9 * 1024**3)  # a hole, which takes no space
        file.seek(0)

        with pytest.raises(ProtocolError, match="header of"):
            extract(file, tmp_path, ArchiveBudget(2**40))


def test_headers_upon_headers_are_no_archive(tmp_path):
    headers = [entry("long", tarfile.GNUTYPE_LONGNAME, size=5)] * 3000

    with pytest.raises(ProtocolError):
        extract(raw_archive(*headers, content=b"name\0", kind=tarfile.GNU_FORMAT), tmp_path)


def test_entries_are_counted(tmp_path):
    budget = ArchiveBudget(LIMIT, max_entries=10)

    with pytest.raises(UnsafeArchiveError, match="more than 10 entries"):
        extract(raw_archive(*[entry(f"f{number}") for number in range(11)]), tmp_path, budget)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"\xff" * 10_240, b"\x1f\x8b" + b"\0" * 1000, b"\0" * 512 + b"x" * 512])
def test_data_that_is_no_tar_writes_nothing(tmp_path, data):
    with suppress(ProtocolError):
        extract(io.BytesIO(data), tmp_path)

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("a"), entry("A")], id="two files"),
        pytest.param([entry("a/x"), entry("A/y")], id="two directories"),
        pytest.param([entry("straße"), entry("STRASSE")], id="letters that fold"),
        pytest.param([entry("e\u0301"), entry("\u00e9")], id="accents"),
        # An old vulnerability of Git: A is a directory to the reader, and the link to the file system.
        pytest.param([link("a", "."), entry("A/b")], id="through a link"),
        pytest.param([link("d/UP", ".."), link("d/out", "up/../x")], id="a link's way through another"),
    ],
)
def test_names_that_are_one_to_the_file_system_are_refused(tmp_path, entries):
    with pytest.raises(UnsafeArchiveError):
        extract(raw_archive(*entries), tmp_path, folds_names=True)

    assert not (tmp_path / "target").exists()


def test_names_that_differ_in_case_are_two_files_by_default(tmp_path):
    target = extract(raw_archive(entry("a"), entry("A")), tmp_path)

    assert {path.name for path in target.iterdir()} == {"a", "A"}


def two_files():
    """A complete archive of two files of a kilobyte each."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("a", "b"):
            tar.addfile(entry(name, size=1024), io.BytesIO(b"x" * 1024))
    return archive.getvalue()


# Python's tarfile takes a header that it cannot read, and the end of the file, for the end of the archive.
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: content[: 512 + 1024], id="cut between two files"),
        pytest.param(lambda content: content[: 512 + 1024 + 100], id="cut in a header"),
        pytest.param(lambda content: content[: 2 * (512 + 1024)], id="without its end"),
        pytest.param(lambda content: content[:1536] + b"\1" + content[1537:], id="a header that is spoilt"),
        pytest.param(lambda content: content[:1024] + content[512:-512], id="a block sent twice"),
    ],
)
def test_an_archive_that_is_not_whole_is_not_taken_for_a_smaller_one(spoil, tmp_path):
    with pytest.raises(ProtocolError, match="no complete tar"):
        extract_tree(io.BytesIO(spoil(two_files())), tmp_path / "tree", ArchiveBudget(10**6))

    assert not (tmp_path / "tree").exists()
