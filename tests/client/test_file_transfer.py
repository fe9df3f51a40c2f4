"""The body of an upload: read while it is sent, and as long as it said."""

import io
import tracemalloc
from io import BytesIO

import pytest
from python_multipart import parse_form

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.file_transfer import UploadBody, content_size, wire_mode
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.errors import ConfigError
from tests.scripted_servers import OneSandboxServer, serving


def read_form(body: UploadBody) -> list[tuple[str, str, bytes]]:
    """Return (part's name, file name, content) of a body as a parser that is not ours reads it."""
    parts: list[tuple[str, str, bytes]] = []

    def on_file(file) -> None:
        file.file_object.seek(0)
        parts.append((file.field_name.decode(), file.file_name.decode(), file.file_object.read()))

    headers = {"Content-Type": body.content_type.encode(), "Content-Length": str(len(body)).encode()}
    parse_form(
        headers, BytesIO(b"".join(body)), lambda field: pytest.fail(f"a part without a filename: {field}"), on_file
    )
    return parts


def test_each_file_is_two_parts_that_both_have_a_filename():
    body = UploadBody([FileUpload('/a é"b', b"one", 0o755), FileUpload("/c", b"", 0o600)])

    assert read_form(body) == [
        ("metadata", "metadata", b'{"path": "/a \\u00e9\\"b", "mode": 755}'),
        ("file", "file", b"one"),
        ("metadata", "metadata", b'{"path": "/c", "mode": 600}'),
        ("file", "file", b""),
    ]


def test_its_length_is_known_before_and_true(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    opened = BytesIO(b"skipped" + b"y" * 1000)
    opened.seek(7)

    body = UploadBody([FileUpload("/a", path), FileUpload("/b", opened), FileUpload("/c", b"z")])

    assert len(b"".join(body)) == len(body)
    assert body.sizes == {"/a": 1_000_000, "/b": 1000, "/c": 1}


def test_a_file_that_grows_meanwhile_is_sent_as_long_as_it_was(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old")
    body = UploadBody([FileUpload("/a", path)])

    path.write_bytes(b"old and new")

    assert len(b"".join(body)) == len(body)


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"long")
    body = UploadBody([FileUpload("/a", path)])

    path.write_bytes(b"")

    with pytest.raises(ConfigError, match=r"not shrink.*4 bytes are missing.*part of the upload was sent"):
        list(body)


def test_a_file_that_vanishes_during_an_upload_says_that_part_was_sent(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_bytes(b"abc")

    def upload():
        with (
            serving(server=OneSandboxServer()) as server,
            Client(server.url) as client,
            Vanishing(first, second) as file,
        ):
            client.upload_files(server.url, [FileUpload("/a", file), FileUpload("/b", second)])

    with pytest.raises(ConfigError, match=r"can be read.*part of the upload was sent"):
        upload()


class Vanishing(io.FileIO):
    """A file that takes another one away as soon as it is read."""

    def __init__(self, path, other):
        super().__init__(path)
        self.other = other

    def read(self, size=-1):
        self.other.unlink(missing_ok=True)
        return super().read(size)


def test_memory_does_not_grow_with_the_files(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    body = UploadBody([FileUpload("/a", path)])
    tracemalloc.start()

    sent = sum(len(piece) for piece in body)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent == len(body) > 100_000_000
    assert peak < 2_000_000


@pytest.mark.parametrize(("mode", "digits"), [(0o755, 755), (0o644, 644), (0o7, 7), (0o777, 777), (0o400, 400)])
def test_a_modes_decimal_digits_are_octal(mode, digits):
    assert wire_mode(mode) == digits


def test_mode_0_is_refused_because_the_agent_would_not_set_it():
    with pytest.raises(ConfigError, match="mode must not be 0"):
        UploadBody([FileUpload("/a", b"", 0)])


def test_a_missing_file_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        UploadBody([FileUpload("/a", tmp_path / "none")])


def test_a_stream_without_a_length_is_refused():
    class Pipe(BytesIO):
        def tell(self) -> int:
            raise OSError("not seekable")

    with pytest.raises(ConfigError, match="content"):
        content_size(FileUpload("/a", Pipe()))


def test_an_open_file_stays_open_and_where_it_was():
    opened = BytesIO(b"abc")
    opened.seek(1)

    b"".join(UploadBody([FileUpload("/a", opened)]))

    assert opened.read() == b"bc"
