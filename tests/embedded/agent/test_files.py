"""Files over a real socket: beyond what was recorded, above all large ones and strange names."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded.agent_process import Agent, running_agent

MEBIBYTE = 1 << 20
BOUNDARY = "the-boundary"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Return a multipart body of (name, file name, content)."""
    return b"".join(part_head(name, file) + content + b"\r\n" for name, file, content in parts) + end()


def part_head(name: str, file: str | None) -> bytes:
    """Return what stands before the content of a part."""
    disposition = f'form-data; name="{name}"' + ("" if file is None else f'; filename="{file}"')
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()


def end() -> bytes:
    """Return what stands after the last part."""
    return f"--{BOUNDARY}--\r\n".encode()


def metadata(path: object, **fields: object) -> tuple[str, str, bytes]:
    """Return the part that says where a file goes."""
    return "metadata", "metadata", json.dumps({"path": str(path), **fields}).encode()


def file(content: bytes) -> tuple[str, str, bytes]:
    """Return the part with a file's content."""
    return "file", "file", content


def upload(agent: Agent, body: bytes | Iterator[bytes]):
    """Send a form."""
    return agent.post("/files/upload", data=body, headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(range(256)) * 5000, id="every byte"),
        pytest.param(f"\r\n--{BOUNDARY}x\r\n--".encode() * 40_000, id="almost the boundary"),
    ],
)
def test_a_file_comes_back_as_it_went(agent: Agent, tmp_path, content: bytes) -> None:
    path = tmp_path / "new" / "a file"

    answer = upload(agent, form(metadata(path, mode=640), file(content)))

    assert (answer.status_code, answer.content) == (200, b"")
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o7777 == 0o640
    assert agent.get("/files/download", params={"path": str(path)}).content == content


def test_files_and_metadata_are_paired_by_position(agent: Agent, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    upload(agent, form(file(b"1"), file(b"2"), metadata(one), metadata(two)))

    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")


def test_a_file_without_a_mode_is_executable(agent: Agent, tmp_path) -> None:
    upload(agent, form(metadata(tmp_path / "plain"), file(b"1")))

    assert (tmp_path / "plain").stat().st_mode & 0o7777 == 0o777 & ~current_umask()


def current_umask() -> int:
    """Return the mask that the agent inherited."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_an_error_in_the_second_file_leaves_the_first(agent: Agent, tmp_path) -> None:
    answer = upload(agent, form(metadata(tmp_path / "one"), file(b"1"), metadata(""), file(b"2")))

    assert (answer.status_code, answer.json()["message"]) == (400, "metadata path is empty")
    assert (tmp_path / "one").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        pytest.param([("metadata", None, b"{}"), file(b"1")], "INVALID_FILE_METADATA", id="metadata has no file name"),
        pytest.param([metadata("/x"), ("file", None, b"1")], "INVALID_FILE_CONTENT", id="file has no file name"),
        pytest.param([metadata("/x"), metadata("/y"), file(b"1")], "INVALID_FILE", id="more metadata than files"),
        pytest.param([metadata("/x", mode="644"), file(b"1")], "INVALID_FILE_METADATA", id="mode is text"),
    ],
)
def test_parts_that_do_not_pair_write_nothing(agent: Agent, parts: list[tuple[str, str, bytes]], code: str) -> None:
    answer = upload(agent, form(*parts))

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not Path("/x").exists()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"something else", id="no form"),
        pytest.param(form(metadata("/x"), file(b"1"))[:-8], id="no end"),
    ],
)
def test_a_broken_form_writes_nothing(agent: Agent, body: bytes) -> None:
    answer = upload(agent, body)

    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_FILE")
    assert not Path("/x").exists()


def test_memory_does_not_grow_with_a_file(agent: Agent, tmp_path) -> None:
    path = tmp_path / "large"
    upload(agent, form(metadata(path), file(b"small")))
    before = agent.peak_kib

    def body() -> Iterator[bytes]:
        yield part_head("metadata", "metadata") + json.dumps({"path": str(path)}).encode() + b"\r\n"
        yield part_head("file", "file")
        yield from (bytes([number]) * MEBIBYTE for number in range(64))
        yield b"\r\n" + end()

    assert upload(agent, body()).status_code == 200
    with agent.get("/files/download", params={"path": str(path)}, stream=True) as answer:
        size = sum(len(chunk) for chunk in answer.iter_content(MEBIBYTE))

    assert size == path.stat().st_size == 64 * MEBIBYTE
    assert agent.peak_kib - before < 20_000


def test_a_file_that_is_written_in_part_is_refused(tmp_path) -> None:
    """The kernel writes up to the limit and says how much that was; only the next write fails."""
    path = tmp_path / "large"
    with running_agent(under=("prlimit", "--fsize=100000")) as agent:
        answer = upload(agent, form(metadata(path), file(b"x" * 150_000)))

    assert (answer.status_code, answer.json()) == (500, {"code": "RUNTIME_ERROR", "message": f"{path}: file too large"})


def test_lines_of_a_large_file_are_streamed(agent: Agent, tmp_path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\r\n" % number for number in range(100_000)))

    answer = agent.get("/files/download", params={"path": str(path), "offset": "3", "limit": "50000"})

    assert answer.content == b"\n".join(b"%d" % number for number in range(2, 50_002))


def test_a_download_says_its_name_for_any_name(agent: Agent, tmp_path) -> None:
    (tmp_path / "é x").write_bytes(b"")

    answer = agent.get("/files/download", params={"path": str(tmp_path / "é x")})

    assert answer.headers["Content-Disposition"] == "attachment; filename=\"%C3%A9%20x\"; filename*=UTF-8''%C3%A9%20x"


def test_info_tells_links_and_devices_from_files(agent: Agent, tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/nowhere")

    answer = agent.get("/files/info", params={"path": [str(link), "/dev/null", str(tmp_path)]}).json()

    assert [entry["type"] for entry in answer.values()] == ["symlink", "other", "directory"]


def test_a_name_that_is_not_utf8_can_be_asked_for(agent: Agent, tmp_path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        answer = agent.get(f"/files/info?path={tmp_path}/%FF")

    assert list(answer.json()) == [f"{tmp_path}/\ufffd"]


def test_a_search_goes_down_in_order_and_skips_directories(agent: Agent, tmp_path) -> None:
    for name in ("b/z.txt", "b/deep/y.txt", "a.txt", "c.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    answer = agent.get("/files/search", params={"path": str(tmp_path), "pattern": "*.txt"})

    found = [entry["path"].removeprefix(f"{tmp_path}/") for entry in answer.json()]
    assert found == ["a.txt", "b/deep/y.txt", "b/z.txt"]


def test_replacing_tells_how_often_when_asked(agent: Agent, tmp_path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a.a\xff")

    answer = agent.post("/files/replace?verbose=true", json={str(path): {"old": "a", "new": "é"}})

    assert answer.json() == {str(path): {"replacedCount": 2}}
    assert path.read_bytes() == "é.é".encode() + b"\xff"


def test_moving_overwrites_nothing(agent: Agent, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")

    answer = agent.post("/files/mv", json=[{"src": str(one), "dest": str(two)}])

    assert answer.json() == {"code": "RUNTIME_ERROR", "message": f"{two}: the destination exists"}
    assert (one.read_text(), two.read_text()) == ("1", "2")


def test_a_link_to_a_directory_is_removed_and_the_directory_stays(agent: Agent, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")

    answer = agent.delete("/directories", params={"path": str(tmp_path / "link")})

    assert answer.status_code == 200
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_empty_path_removes_nothing(agent: Agent) -> None:
    assert agent.delete("/directories?path=").status_code == 200

    assert agent.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("depth", "count"),
    [
        pytest.param("0", 0, id="nothing"),
        pytest.param("1", 1, id="what is in it"),
        pytest.param("2", 2, id="and in what is in it"),
        pytest.param("9", 3, id="everything"),
    ],
)
def test_a_listing_goes_as_deep_as_asked(agent: Agent, tmp_path, depth: str, count: int) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)

    answer = agent.get("/directories/list", params={"path": str(tmp_path), "depth": depth})

    assert len(answer.json()) == count


@pytest.mark.parametrize("depth", ["-1", "x", "1.5", "1_0"])
def test_a_depth_that_is_no_number_is_refused(agent: Agent, depth: str) -> None:
    answer = agent.get("/directories/list", params={"path": "/", "depth": depth})

    assert (answer.status_code, answer.json()["message"]) == (400, f"invalid query parameter 'depth': {depth}")


def test_a_file_may_lie_as_deep_as_the_kernel_takes_it(agent: Agent) -> None:
    path = "/tmp/" + "a/" * 1500 + "file"
    try:
        answer = upload(agent, form(metadata(path, mode=644), file(b"deep")))

        assert (answer.status_code, answer.content) == (200, b"")
        assert agent.get("/files/download", params={"path": path}).content == b"deep"
    finally:
        subprocess.run(["rm", "-rf", "/tmp/a"], check=True)


def test_an_existing_directory_keeps_its_mode(agent: Agent, tmp_path) -> None:
    folder = tmp_path / "new"

    agent.post("/directories", json={str(folder): {"mode": 750}})
    agent.post("/directories", json={str(folder): {"mode": 700}})

    assert folder.stat().st_mode & 0o777 == 0o750
