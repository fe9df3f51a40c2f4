"""Recorded file operations, played to the client: it asks as the recording did, and reads the answers right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.errors import ApiError, NotFoundError
from tests.scripted_servers import serving
from tests.wire.replay import AGENT, asked_as_recorded, recordings, replay

FILES = recordings("files")
FileCall = Callable[[Client, str], Any]


@pytest.mark.parametrize(
    ("name", "call", "expected"),
    [
        pytest.param(
            "download",
            lambda c, e: c.download_file(e, "/tmp/wire/a.txt", known_file=True).read(),
            b"alpha\nbeta\n",
            id="download",
        ),
        pytest.param(
            "download a range",
            lambda c, e: c.download_file(e, "/tmp/wire/a.txt", byte_range=(2, 6), known_file=True).read(),
            b"pha\n",
            id="range",
        ),
        pytest.param(
            "download an empty file",
            lambda c, e: c.download_file(e, "/tmp/wire/empty", known_file=True).read(),
            b"",
            id="empty file",
        ),
        pytest.param(
            "info of two",
            lambda c, e: {
                path: (entry.size, entry.mode)
                for path, entry in c.files_info(e, ["/tmp/wire/a.txt", "/tmp/wire/x/y/b.sh"]).items()
            },
            {"/tmp/wire/a.txt": (11, 0o644), "/tmp/wire/x/y/b.sh": (18, 0o755)},
            id="info",
        ),
        pytest.param(
            "search **/*.sh",
            lambda c, e: [(entry.path, entry.type) for entry in c.search_files(e, "/tmp/wire", "**/*.sh")],
            [("/tmp/wire/x/y/b.sh", "file")],
            id="search",
        ),
        pytest.param("remove a file", lambda c, e: c.remove_files(e, ["/tmp/wire/moved/a.txt"]), None, id="remove"),
        pytest.param("remove a missing file", lambda c, e: c.remove_files(e, ["/tmp/wire/none"]), None, id="gone"),
        pytest.param("remove a directory", lambda c, e: c.remove_directories(e, ["/tmp/wire"]), None, id="remove tree"),
        pytest.param(
            "make directories",
            lambda c, e: c.make_directories(e, ["/tmp/wire/new/deep"], mode=0o750),
            None,
            id="make directories",
        ),
    ],
)
def test_a_recorded_file_operation_is_asked_for_and_read_as_it_was(name, call: FileCall, expected):
    with serving(replay(FILES[name])) as server, Client("http://127.0.0.1:1") as client:
        found = call(client, f"{server.url}{AGENT}")

    assert found == expected
    assert asked_as_recorded(server, FILES[name])


@pytest.mark.parametrize(
    ("name", "call", "kind", "text"),
    [
        pytest.param(
            "download a missing file",
            lambda c, e: c.download_file(e, "/x", known_file=True),
            NotFoundError,
            "none",
            id="404",
        ),
        pytest.param("info of a missing file", lambda c, e: c.files_info(e, ["/x"]), NotFoundError, "lstat", id="info"),
        pytest.param(
            "download a range past the end",
            lambda c, e: c.download_file(e, "/x", byte_range=(100, 201), known_file=True),
            ApiError,
            "failed to overlap",
            id="416",
        ),
        pytest.param(
            "download a directory",
            lambda c, e: c.download_file(e, "/x", known_file=True),
            ApiError,
            "500",
            id="a directory, with a length that is none",
        ),
        pytest.param(
            "upload onto a directory",
            lambda c, e: c.upload_files(e, [FileUpload("/x", b"a")]),
            ApiError,
            "is a directory",
            id="upload onto a directory",
        ),
        pytest.param(
            "remove a directory as a file",
            lambda c, e: c.remove_files(e, ["/x"]),
            ApiError,
            "is a directory",
            id="remove",
        ),
        pytest.param(
            "search in a missing directory", lambda c, e: c.search_files(e, "/x"), NotFoundError, "stat", id="search"
        ),
    ],
)
def test_a_recorded_refusal_of_a_file_operation_is_an_error_of_ours(name, call: FileCall, kind, text):
    with (
        serving(replay(FILES[name])) as server,
        Client("http://127.0.0.1:1") as client,
        pytest.raises(kind, match=text),
    ):
        call(client, server.url)
