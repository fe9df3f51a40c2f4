"""Random archives and random targets: nothing outside changes, and the result is the same as that of GNU tar."""

import errno
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_opensandbox.errors import FileTooLargeError, ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree
from tests.sandbox.tars import padded
from tests.sandbox.trees import tree_state

pytestmark = pytest.mark.thorough

NOBODY = 65534
LIMIT = 1_000_000
GNU_TAR = (
    shutil.which("tar") and "GNU tar" in subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout
)

PARTS = st.sampled_from(["a", "b", "c", "d"])
PLAIN = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
NAMES = st.one_of(
    PLAIN,
    PLAIN,
    PLAIN,
    st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "./" + "/".join(parts)),
    st.sampled_from(
        [".", "./", "a/", "b//c", "../canary/file", "/canary", "a/../../canary", "n" * 150, "d/" * 90 + "x"]
    ),
)
TARGETS = st.one_of(
    st.lists(st.sampled_from(["a", "b", "c", "..", "..", ".", ""]), min_size=1, max_size=6).map("/".join),
    st.sampled_from(["/", "/etc/passwd", "../canary/file", "../../canary/file", "a/b/../../../canary", "l" * 150]),
)
MODES = st.sampled_from([0o644, 0o755, 0o600, 0o444, 0o555, 0o700, 0o500, 0o777, 0o4755, 0o1777, 0])


@st.composite
def entries(draw):
    """Return the bytes of one entry, which tar can mostly extract."""
    kind = draw(st.sampled_from("ffffddddddssssshhpPG" + "kS01"))
    name, target, content = draw(NAMES), draw(TARGETS), draw(st.binary(max_size=700))
    entry = tarfile.TarInfo(name.rstrip("/") or ".")
    entry.mode = draw(MODES)
    if kind in "fpPG":
        entry.size = len(content)
    elif kind == "d":
        entry.type, entry.mode, content = tarfile.DIRTYPE, entry.mode | draw(st.sampled_from([0, 0o700])), b""
    elif kind == "s":
        entry.type, entry.linkname, content = tarfile.SYMTYPE, target, b""
    elif kind == "h":
        entry.type, entry.linkname, content = tarfile.LNKTYPE, draw(NAMES), b""
    elif kind == "k":
        entry.type, content = draw(st.sampled_from([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])), b""
    else:
        return sparse(entry, kind, draw(st.integers(0, 3)))
    if kind == "P":
        entry.pax_headers = {"path": draw(NAMES), "comment": draw(st.text(max_size=20))}
    return entry.tobuf(tarfile.PAX_FORMAT if kind in "pP" else tarfile.GNU_FORMAT) + padded(content)


def sparse(entry, kind, pieces):
    """Return a file of so many pieces of 512 bytes, with holes of 512 bytes before each and one at the end."""
    extents = [*((512 + 1024 * number, 512) for number in range(pieces)), (1024 * pieces + 512, 0)]
    size, data = 1024 * pieces + 512, b"x" * 512 * pieces
    if kind == "S":
        entry.type, entry.size = tarfile.GNUTYPE_SPARSE, len(data)
        block = bytearray(entry.tobuf(tarfile.GNU_FORMAT)[-512:])
        table = b"".join(b"%011o\0" % number for extent in extents for number in extent)
        block[386 : 386 + len(table)] = table
        block[483:495] = b"%011o\0" % size
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + data
    numbers = [number for extent in extents for number in extent]
    if kind == "0":
        entry.pax_headers = {
            "GNU.sparse.numblocks": str(len(extents)),
            "GNU.sparse.size": str(size),
            "GNU.sparse.map": ",".join(map(str, numbers)),
        }
    else:
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
        data = padded("".join(f"{number}\n" for number in [len(extents), *numbers]).encode()) + data
    entry.pax_headers["GNU.sparse.name"] = entry.name
    entry.size = len(data)
    return entry.tobuf(tarfile.PAX_FORMAT) + padded(data)


archives = st.lists(entries(), max_size=10).map(lambda found: b"".join(found) + bytes(1024))

things = st.one_of(
    st.just(("file",)),
    st.just(("hard link",)),
    st.tuples(st.just("link"), st.sampled_from(["../canary", "../canary/file", ".", "a", "../../canary", "nowhere"])),
    st.tuples(st.just("directory"), st.sampled_from([0o755, 0o555])),
)
targets = st.none() | st.dictionaries(st.lists(PARTS, min_size=1, max_size=2).map("/".join), things, max_size=5)


@contextmanager
def host_directory():
    """Yield a directory with a canary in it, and without a target."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        root = Path(directory, "host")
        (root / "canary" / "sub").mkdir(parents=True)
        (root / "canary" / "file").write_text("of the host")
        (root / "canary" / "link").symlink_to("file")
        (root / "canary").chmod(0o750)
        yield root


def prepare(target, things):
    """Fill a target as a user may have filled it."""
    if things is None:
        return
    target.mkdir()
    closed = []
    for name, (kind, *what) in things.items():
        path = target / name
        if any(parent.is_symlink() or parent.is_file() for parent in [path, *path.parents]) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text("of the user")
        elif kind == "hard link":
            os.link(target.parent / "canary" / "file", path)
        elif kind == "link":
            path.symlink_to(what[0])
        else:
            path.mkdir()
            closed.append((path, what[0]))
    for path, mode in closed:
        path.chmod(mode)


def extract(data, target, links):
    """Return whether the archive was accepted."""
    try:
        extract_tree(io.BytesIO(data), target, ArchiveBudget(LIMIT), links=links)
    except (UnsafeArchiveError, FileTooLargeError, ProtocolError):
        return False
    return True


def leads_out(target):
    root = os.path.realpath(target)
    return [
        path
        for path in target.rglob("*")
        if path.is_symlink() and not is_loop(path) and not f"{os.path.realpath(path)}/".startswith(f"{root}/")
    ]


def is_loop(path):
    try:
        path.stat()
    except OSError as exc:
        return exc.errno == errno.ELOOP
    return False


@given(archives, targets, st.sampled_from(["error", "skip", "keep"]))
@settings(max_examples=200, deadline=None)
def test_nothing_outside_changes_and_a_refusal_leaves_no_trace(data, things, links):
    with host_directory() as root:
        target = root / "target"
        prepare(target, things)
        canary, before = tree_state(root / "canary"), tree_state(root)

        accepted = extract(data, target, links)

        event(f"accepted: {accepted}, target: {things is not None}")
        assert tree_state(root / "canary") == canary
        assert {path.name for path in root.iterdir()} <= {"canary", "target"}
        if not accepted:
            assert tree_state(root) == before


@given(st.lists(archives, min_size=1, max_size=3), st.sampled_from(["error", "skip"]))
@settings(max_examples=200, deadline=None)
def test_links_stay_inside_however_many_trees_are_copied_into_one_place(several, links):
    with host_directory() as root:
        target = root / "target"

        accepted = [extract(data, target, links) for data in several]

        event(f"accepted: {sum(accepted)}")
        assert leads_out(target) == []


@pytest.mark.skipif(not GNU_TAR, reason="needs GNU tar")
@given(archives)
@settings(max_examples=100, deadline=None)
def test_an_accepted_tree_is_what_tar_makes_of_it(data):
    with host_directory() as root:
        accepted = extract(data, root / "target", "keep")

        event(f"accepted: {accepted}")
        # Where a name comes twice, GNU tar stumbles over the placeholders that it makes for links.
        if accepted and not has_twins(data):
            expected = unpacked_by_tar(data, root)
            assert expected is None or described(root / "target") == described(expected)


def has_twins(data):
    """Return whether two entries have one name; a read-only directory may become so before its content is there."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = [os.path.normpath(name) for name in tar.getnames()]
    return len(set(names)) < len(names)


def unpacked_by_tar(data, root):
    """Return a directory into which tar has unpacked an archive, as an ordinary user; None where it could not."""
    identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    for parent in (root, root.parent):
        parent.chmod(0o755)
    target = root / "by-tar"
    target.mkdir()
    if identity:
        os.chown(target, NOBODY, NOBODY)
    command = ["tar", "-x", "-p", "-f", "-", "-C", target]
    result = subprocess.run(command, input=data, check=False, capture_output=True, **identity)
    # GNU tar closes a directory too early where a later name has a double slash, and fails then.
    assert result.returncode == 0 or b"Permission denied" in result.stderr
    return None if result.returncode else target


def described(root):
    """Return kind, permissions without set-id bits, content and hard links of everything below a directory."""
    first_names = {}
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        one_with = first_names.setdefault(status.st_ino, str(path.relative_to(root))) if path.is_file() else ""
        mode = 0 if path.is_symlink() else status.st_mode & 0o777
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), mode, content, path.is_symlink() or one_with)
    return found
