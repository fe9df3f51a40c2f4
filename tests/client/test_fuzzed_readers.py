"""The two readers of what a sandbox says, fed with what no program would write."""

import io
import os
import stat
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_opensandbox.client.event_stream import EventParser
from pytest_opensandbox.errors import FileTooLargeError, ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree

pytestmark = pytest.mark.thorough

MAX_BYTES = 100_000
TYPES = [bytes([code]) for code in range(256)]
NAMES = st.one_of(
    st.lists(st.sampled_from(["a", "b", "A", "..", ".", "", "x" * 300, "é"]), max_size=5).map("/".join),
    st.text(max_size=20),
)


@st.composite
def entries(draw):
    """Return one header with its content: any type, any name, any link, a size that may be a lie."""
    member = tarfile.TarInfo(draw(NAMES))
    member.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, *TYPES]))
    member.linkname = draw(NAMES)
    member.mode = draw(st.integers(0, 0o7777))
    content = draw(st.binary(max_size=600))
    member.size = draw(st.one_of(st.just(len(content)), st.integers(0, 2**40)))
    header = member.tobuf(draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])), "utf-8", "surrogatepass")
    return header + content + b"\0" * (-len(content) % 512)


@st.composite
def archives(draw):
    """Return such entries, some of their bytes changed."""
    data = bytearray(b"".join(draw(st.lists(entries(), max_size=5))) + b"\0" * 1024)
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)):
        data[place] = byte
    return bytes(data)


@given(st.one_of(archives(), st.binary(max_size=3000)))
@settings(max_examples=400, deadline=None)
def test_an_archive_is_refused_or_stays_in_its_directory(data):
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "here", "target")

        with suppress(UnsafeArchiveError, FileTooLargeError, ProtocolError):
            extract_tree(io.BytesIO(data), target, ArchiveBudget(MAX_BYTES))

        around = {path for path in Path(directory).rglob("*") if target not in path.parents}
        inside = list(target.rglob("*"))
        assert around <= {target, target.parent}
        assert [path for path in inside if not path.resolve().is_relative_to(target.resolve())] == []
        assert all(kind(path) for path in inside)
        assert sum(path.lstat().st_size for path in inside if path.is_file()) <= MAX_BYTES


@given(
    st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([b'{"type":"', b"\n\n", b"data: {", b'"}', b"\xff"])))
)
@settings(max_examples=400, deadline=None)
def test_a_stream_is_events_or_a_protocol_error(pieces):
    parser = EventParser()

    try:
        events = [event for piece in pieces for event in parser.feed(piece)]
        events += parser.finish()
    except ProtocolError:
        return

    assert all(isinstance(event.type, str) for event in events)


def kind(path):
    """Say whether it is a file, a directory or a link without more rights than were asked for."""
    mode = os.lstat(path).st_mode
    known = stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
    return known and not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
