"""Files over a real connection: what is sent, what is checked, and what is refused."""

import threading
import tracemalloc
from contextlib import nullcontext

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import FileUpload
from pytest_opensandbox.errors import ConfigError, NotFoundError, ProtocolError, TransportError
from tests.scripted_servers import Player, Reply, Server, as_json, serving

OK = Reply(200)
MISSING = as_json({"code": "FILE_NOT_FOUND", "message": "file not found. /x"}, 404)


@pytest.fixture
def client():
    with Client("http://127.0.0.1:1") as client:
        yield client


def info(*entries: tuple[str, int], kind: str = "file") -> Reply:
    return as_json({path: {"path": path, "type": kind, "size": size, "mode": 644} for path, size in entries})


def calls(server: Server) -> list[str]:
    return [f"{seen.method} {seen.path}" for seen in server.seen]


def test_an_upload_has_a_length_and_its_sizes_are_verified(client):
    with serving(OK, info(("/a", 3), ("/b", 0))) as server:
        client.upload_files(server.url, [FileUpload("/a", b"abc", 0o755), FileUpload("/b", b"")])

    upload, check = server.seen
    assert "Transfer-Encoding" not in upload.headers
    assert int(upload.headers["Content-Length"]) == len(upload.body)
    assert upload.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert (check.path, check.query) == ("/files/info", [("path", "/a"), ("path", "/b")])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(info(("/a", 1)), r"/a: 3 bytes were sent, 1 are there", id="short"),
        pytest.param(MISSING, "a file is not there", id="missing"),
        pytest.param(as_json({}), "says nothing of /a", id="left out"),
    ],
)
def test_an_upload_that_was_not_written_as_sent_is_an_error(client, answer, text):
    with serving(OK, answer) as server, pytest.raises(ProtocolError, match=text):
        client.upload_files(server.url, [FileUpload("/a", b"abc")])


def test_an_upload_to_a_sandbox_that_is_gone_meanwhile_says_so(client):
    gone = as_json({"code": "DOCKER::SANDBOX_NOT_FOUND", "message": "Sandbox s1 not found."}, 404)
    with serving(OK, gone) as server, pytest.raises(NotFoundError, match="Sandbox s1 not found"):
        client.upload_files(server.url, [FileUpload("/a", b"abc")])


def test_an_upload_through_a_link_is_not_compared_with_the_links_own_size(client):
    with serving(OK, info(("/a", 99), kind="symlink")) as server:
        client.upload_files(server.url, [FileUpload("/a", b"abc")])

    assert [seen.path for seen in server.seen] == ["/files/upload", "/files/info"]


def test_the_last_of_two_uploads_to_one_path_counts(client):
    with serving(OK, info(("/a", 1))) as server:
        client.upload_files(server.url, [FileUpload("/a", b"long"), FileUpload("/a", b"s")])

    assert [seen.path for seen in server.seen] == ["/files/upload", "/files/info"]


def test_an_upload_of_nothing_asks_nothing(client):
    with serving() as server:
        client.upload_files(server.url, [])

    assert server.seen == []


@pytest.mark.parametrize(
    "failure", [pytest.param(Reply(503), id="503"), pytest.param(Reply(drop="before"), id="broken connection")]
)
def test_an_upload_is_repeated_because_it_writes_the_same_again(client, failure):
    with serving(failure, OK, info(("/a", 3))) as server:
        client.upload_files(server.url, [FileUpload("/a", b"abc")])

    first, second, _ = server.seen
    assert first.body == second.body


@pytest.mark.parametrize("path", ["/tmp/$HOME", "/a/${X}", "relative", "~/x", "", "/a\0b"])
def test_a_path_that_the_agent_would_alter_is_refused_by_every_operation(client, path):
    operations = [
        lambda: client.download_file("http://127.0.0.1:1", path),
        lambda: client.files_info("http://127.0.0.1:1", [path]),
        lambda: client.search_files("http://127.0.0.1:1", path),
        lambda: client.remove_files("http://127.0.0.1:1", [path]),
        lambda: client.make_directories("http://127.0.0.1:1", [path]),
        lambda: client.remove_directories("http://127.0.0.1:1", [path]),
        lambda: client.upload_files("http://127.0.0.1:1", [FileUpload(path, b"")]),
    ]

    for operation in operations:
        with pytest.raises(ConfigError, match="path"):
            operation()


def test_a_tilde_inside_a_path_is_an_ordinary_character(client):
    with serving(info(("/a/b~", 1))) as server:
        assert client.files_info(server.url, ["/a/b~"])["/a/b~"].size == 1


def test_a_download_says_how_long_it_is_and_comes_whole(client):
    with (
        serving(info(("/a b", 5)), Reply(200, b"alpha")) as server,
        client.download_file(server.url, "/a b") as download,
    ):
        size, content = download.size, b"".join(download)

    assert (size, content) == (5, b"alpha")
    assert server.seen[1].query == [("path", "/a b")]


def test_a_caller_who_knows_that_it_is_a_file_saves_a_request(client):
    with serving(Reply(200, b"alpha")) as server:
        assert client.download_file(server.url, "/a", known_file=True).read() == b"alpha"

    assert calls(server) == ["GET /files/download"]


@pytest.mark.parametrize(
    ("span", "header"), [((2, 6), "bytes=2-5"), ((0, 1), "bytes=0-0"), ((3, None), "bytes=3-")], ids=str
)
def test_a_part_is_asked_for_by_its_first_byte_and_the_one_behind_it(client, span, header):
    part = b"part"[: None if span[1] is None else span[1] - span[0]]
    with serving(info(("/a", 9)), Reply(206, part)) as server:
        assert client.download_file(server.url, "/a", byte_range=span).read() == part

    assert server.seen[1].headers["Range"] == header


@pytest.mark.parametrize("span", [(-1, 5), (5, 5), (6, 5)], ids=str)
def test_a_part_that_is_none_is_refused(client, span):
    with pytest.raises(ConfigError, match="byte_range"):
        client.download_file("http://127.0.0.1:1", "/a", byte_range=span)


def test_the_whole_file_is_not_taken_for_the_part_that_was_asked_for(client):
    with (
        serving(info(("/a", 9)), Reply(200, b"everything")) as server,
        pytest.raises(ProtocolError, match="a part was asked for"),
    ):
        client.download_file(server.url, "/a", byte_range=(1, 3))


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        pytest.param([info(("/d", 40), kind="directory")], "it is a directory; use get", id="directory"),
        pytest.param([info(("/d", 0), kind="other")], "a device, a socket or a FIFO", id="FIFO"),
        pytest.param(
            [info(("/d", 4), kind="symlink"), Reply(200, promised=2**63 - 1, drop="after")],
            "it is a directory",
            id="link to a directory",
        ),
        pytest.param(
            [info(("/d", 40)), Reply(200, promised=2**63 - 1, drop="after")], "it is a directory", id="older agent"
        ),
    ],
)
def test_what_is_no_file_is_a_clear_error(client, replies, text):
    with serving(*replies) as server, pytest.raises(ConfigError, match=text):
        client.download_file(server.url, "/d")

    assert len(server.seen) == len(replies)


def test_a_download_that_breaks_off_is_an_error(client):
    with (
        serving(info(("/a", 9)), Reply(200, b"half", promised=9, drop="after")) as server,
        pytest.raises(TransportError),
    ):
        client.download_file(server.url, "/a").read()


@pytest.mark.parametrize(("size", "body"), [(9, b"short"), (3, b"longer")], ids=["fewer", "more"])
def test_a_download_without_a_length_is_compared_with_the_files_size(client, size, body):
    with (
        serving(info(("/a", size)), Reply(200, body, framing="chunked")) as server,
        pytest.raises(ProtocolError, match="were promised"),
    ):
        client.download_file(server.url, "/a").read()


def test_a_download_of_unknown_length_says_so(client):
    with serving(Reply(200, b"text", framing="chunked")) as server:
        download = client.download_file(server.url, "/a", known_file=True)

        assert (download.size, download.read()) == (-1, b"text")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(MISSING, id="404"),
        pytest.param(
            as_json({"code": "RUNTIME_ERROR", "message": "stat /x: no such file"}, 500), id="500 of old agents"
        ),
        pytest.param(
            as_json({"code": "RUNTIME_ERROR", "message": "error accessing file: file not found: /x"}, 500),
            id="500 of 1.0.17",
        ),
    ],
)
def test_a_missing_file_is_not_found(client, reply):
    with serving(reply) as server, pytest.raises(NotFoundError):
        client.download_file(server.url, "/x")


def test_reading_is_retried_and_removing_too(client):
    with serving(Reply(502), info(("/a", 1)), Reply(503, headers={"Retry-After": "0"}), OK) as server:
        client.files_info(server.url, ["/a"])
        client.remove_files(server.url, ["/a"])

    assert [call.split()[0] for call in calls(server)] == ["GET", "GET", "DELETE", "DELETE"]


def test_many_paths_are_asked_for_in_queries_that_servers_accept(client):
    paths = [f"/{'long' * 50}/{number}" for number in range(100)]
    replies = [info(*[(path, 1) for path in paths])] * 30
    with serving(*replies) as server:
        found = client.files_info(server.url, paths)

    assert list(found) == paths
    assert 1 < len(server.seen) < 30
    assert max(sum(len(path) for _, path in seen.query) for seen in server.seen) < 8_000


def test_a_search_returns_entries(client):
    entries = [{"path": "/d/a.py", "size": 3, "type": "file", "mode": 755, "modified_at": "2026-11-23T11:54:38.9Z"}]
    with serving(as_json(entries), as_json(None)) as server:
        found = client.search_files(server.url, "/d", "*.py")

        assert client.search_files(server.url, "/d") == []
    assert [(entry.path, entry.mode) for entry in found] == [("/d/a.py", 0o755)]
    assert [seen.query[1] for seen in server.seen] == [("pattern", "*.py"), ("pattern", "**")]


def test_directories_are_made_with_a_mode(client):
    with serving(OK) as server:
        client.make_directories(server.url, ["/a/b", "/c"], mode=0o750)
        client.make_directories(server.url, [])

    assert server.seen[0].json == {"/a/b": {"mode": 750}, "/c": {"mode": 750}}


@pytest.mark.parametrize("path", ["/", "//", "/.", "/..", "/./../"])
def test_the_root_is_never_removed(client, path):
    with serving() as server, pytest.raises(ConfigError, match="root"):
        client.remove_directories(server.url, ["/tmp/x", path])

    assert server.seen == []


class Discarding(Player):
    """Reads an upload piece by piece and forgets it."""

    def read_body(self) -> bytes:
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            left -= len(self.rfile.read(min(left, 65_536)))
        return b""


def test_memory_is_flat_for_100_mb_both_ways(client, tmp_path):
    size = 100_000_000
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(size)
    block = b"\0" * 1_000_000
    replies = [OK, info(("/a", size)), info(("/a", size)), Reply(200, [block] * 100)]
    with serving(server=Server(replies, Discarding)) as server:
        tracemalloc.start()
        client.upload_files(server.url, [FileUpload("/a", path)])
        received = sum(len(piece) for piece in client.download_file(server.url, "/a"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert received == size
    assert peak < 8_000_000


def test_a_download_can_be_left_in_the_middle(client):
    held = threading.Event()
    with serving(info(("/a", 9)), Reply(200, [b"part", held], promised=9)) as server:
        with client.download_file(server.url, "/a") as download:
            first = next(iter(download))
        held.set()

    assert first == b"part"


@pytest.mark.parametrize(
    ("before", "promised", "after", "is_right"),
    [
        pytest.param(3, 3, None, True, id="the same"),
        pytest.param(2, 3, 5, True, id="a file that grows"),
        pytest.param(9, 3, 3, True, id="a file that was cut off"),
        pytest.param(9, 3, 9, False, id="another answer"),
        pytest.param(2, 3, 2, False, id="an answer that is too long"),
    ],
)
def test_a_file_has_the_length_that_the_agent_has_told(client, before, promised, after, is_right):
    infos = [info(("/a", size)) for size in (before, after) if size is not None]
    with serving(infos[0], Reply(200, b"abc"), *infos[1:]) as server:
        if is_right:
            assert client.download_file(server.url, "/a").read() == b"abc"
        else:
            with pytest.raises(ProtocolError, match="are promised"):
                client.download_file(server.url, "/a")


# Agents before 1.0.18 do not say what a path is; here execd 1.0.17 described a link of nine bytes to a file of three.
@pytest.mark.parametrize(("there", "outcome"), [(b"abc", None), (b"ab", "3 bytes were sent, 2 are there")])
def test_what_an_old_agent_took_in_is_counted_behind_a_link(client, there, outcome):
    link = {"/link": {"path": "/link", "size": 9, "owner": "root", "group": "root", "mode": 777}}
    with serving(Reply(200), as_json(link), Reply(200, there)) as server:
        expected = pytest.raises(ProtocolError, match=outcome) if outcome else nullcontext()
        with expected:
            client.upload_files(server.url, [FileUpload("/link", b"abc")])


def test_an_old_agent_does_not_say_what_a_path_is(client):
    with serving(as_json({"/d": {"path": "/d", "size": 4096, "mode": 755}})) as server:
        assert client.files_info(server.url, ["/d"])["/d"].type == ""
