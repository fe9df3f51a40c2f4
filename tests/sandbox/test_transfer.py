"""Files and trees are copied into a sandbox and out of it unchanged, with any name."""

import os
import stat
from pathlib import Path, PurePosixPath

import pytest

from pytest_opensandbox import (
    ApiError,
    CommandError,
    ConfigError,
    FileTooLargeError,
    NotFoundError,
    SkippedFileWarning,
    UnsafeArchiveError,
)

AWKWARD = [
    pytest.param("a b", id="space"),
    pytest.param('it\'s "quoted"', id="quotes"),
    pytest.param("$HOME", id="variable"),
    pytest.param("${UNSET}x", id="unset variable"),
    pytest.param("~", id="tilde"),
    pytest.param("two\nlines", id="newline"),
    pytest.param("grün-日本", id="not ASCII"),
    pytest.param("-rf", id="leading dash"),
    pytest.param("*?[x]", id="pattern"),
    pytest.param("back\\slash", id="backslash"),
    pytest.param("%2F&a=b#c", id="URL syntax"),
    pytest.param("x" * 255, id="255 bytes"),
    pytest.param("a\x01b\x1b[2J\x7f\r", id="control characters"),
]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_file_keeps_its_name(shared_sandbox, tmp_path, name):
    path = f"/workspace/names/{name}"

    shared_sandbox.put("content", path)

    assert shared_sandbox.run(["cat", "--", path]).stdout == "content"
    assert shared_sandbox.get(path) == b"content"
    assert shared_sandbox.get(path, tmp_path / "copy").read_text() == "content"


@pytest.mark.parametrize("name", AWKWARD)
def test_a_tree_keeps_its_name(shared_sandbox, tmp_path, name):
    source = tmp_path / "source"
    (source / name).mkdir(parents=True)
    (source / name / name).write_text("content")

    shared_sandbox.put(source, f"/workspace/trees/{name}")
    shared_sandbox.get(f"/workspace/trees/{name}", tmp_path / "back")

    assert (tmp_path / "back" / name / name).read_text() == "content"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(range(256)), id="every byte"),
        pytest.param("grün\r\n", id="text"),
        pytest.param(os.urandom(3_000_000), id="3 MB"),
    ],
)
def test_content_is_kept(shared_sandbox, content):
    shared_sandbox.put(content, "/workspace/content")

    assert shared_sandbox.get("/workspace/content") == (content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o444, 0o77, 0], ids=oct)
@pytest.mark.parametrize("name", ["mode", "$mode"])
def test_permissions_are_set_as_given(shared_sandbox, name, mode):
    path = f"/workspace/{name}{mode:o}"

    shared_sandbox.put("x", path, mode=mode)

    assert shared_sandbox.run(["stat", "-c", "%a", path]).stdout == f"{mode:o}\n"


@pytest.mark.parametrize("name", ["bad", "$bad"])
def test_a_mode_that_is_no_permission_is_refused(shared_sandbox, name):
    with pytest.raises(ConfigError, match="mode must be permission bits"):
        shared_sandbox.put("x", f"/workspace/{name}", mode=0o1755)


def test_a_local_file_keeps_its_permissions_both_ways(shared_sandbox, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o750)

    shared_sandbox.put(script, "/workspace/script")
    copy = shared_sandbox.get("/workspace/script", tmp_path / "copy")

    assert shared_sandbox.run(["/workspace/script"]).stdout == "ran\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o750


def test_a_tree_keeps_modes_links_and_empty_directories(shared_sandbox, tmp_path):
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    (source / "link").symlink_to("tool")
    (source / "dangling").symlink_to("nowhere")

    shared_sandbox.put(source, "/workspace/tree")
    back = shared_sandbox.get("/workspace/tree", tmp_path / "back")

    assert sorted(path.name for path in back.iterdir()) == ["dangling", "empty", "link", "tool"]
    assert (back / "empty").is_dir()
    assert [os.readlink(back / name) for name in ("link", "dangling")] == ["tool", "nowhere"]
    assert stat.S_IMODE((back / "tool").stat().st_mode) == 0o755


def test_a_tree_is_merged_into_a_directory_that_exists(shared_sandbox, tmp_path):
    (tmp_path / "new").write_text("new")
    shared_sandbox.run(
        "mkdir -p /workspace/merge && echo old >/workspace/merge/old && chmod 700 /workspace/merge", check=True
    )

    shared_sandbox.put(tmp_path, "/workspace/merge")

    assert shared_sandbox.run("cd /workspace/merge && ls && stat -c %a .").stdout == "new\nold\n700\n"


def test_a_file_goes_into_a_local_directory_under_its_own_name(shared_sandbox, tmp_path):
    shared_sandbox.put("x", "/workspace/named")

    assert shared_sandbox.get("/workspace/named", tmp_path) == tmp_path / "named"


def test_a_link_is_followed(shared_sandbox):
    shared_sandbox.put("target", "/workspace/target")
    shared_sandbox.run("ln -sf target /workspace/alias", check=True)

    assert shared_sandbox.get("/workspace/alias") == b"target"


def test_files_of_proc_are_read_although_their_size_is_zero(shared_sandbox, tmp_path):
    assert shared_sandbox.get("/proc/self/status").startswith(b"Name:")
    assert (
        shared_sandbox.get("/proc/version", tmp_path / "version").read_bytes()
        == shared_sandbox.get("/proc/version")
        != b""
    )


@pytest.mark.parametrize("path", ["/workspace/none", "/workspace/$none"])
def test_a_missing_path_is_not_found(shared_sandbox, path):
    with pytest.raises(NotFoundError, match="none"):
        shared_sandbox.get(path)


def test_a_directory_has_no_bytes(shared_sandbox):
    with pytest.raises(ConfigError, match="dst must be given"):
        shared_sandbox.get("/usr")


def test_a_device_is_not_read(shared_sandbox):
    with pytest.raises(ConfigError, match="device"):
        shared_sandbox.get("/dev/zero")


def test_a_file_beyond_the_limit_is_refused(shared_sandbox):
    shared_sandbox.put(b"x" * 100, "/workspace/large")

    with pytest.raises(FileTooLargeError, match="100 bytes"):
        shared_sandbox.get("/workspace/large", max_bytes=99)


def test_the_limit_of_a_tree_is_for_its_files_alone(shared_sandbox, tmp_path):
    shared_sandbox.run("mkdir -p /var/tmp/limit && cd /var/tmp/limit && echo 1234 | tee a b >/dev/null", check=True)

    assert sorted(os.listdir(shared_sandbox.get("/var/tmp/limit", tmp_path / "fits", max_bytes=10))) == ["a", "b"]
    with pytest.raises(FileTooLargeError, match="10 bytes"):
        shared_sandbox.get("/var/tmp/limit", tmp_path / "too-large", max_bytes=9)


@pytest.mark.parametrize("path", ["relative", "", "~/x", "/nul\0", "/not-utf8\udcff"])
def test_a_path_must_be_absolute_text(shared_sandbox, path):
    with pytest.raises(ConfigError, match=r"absolute|UTF-8"):
        shared_sandbox.put("x", path)
    with pytest.raises(ConfigError, match=r"absolute|UTF-8"):
        shared_sandbox.get(path)


def test_a_mode_for_a_tree_is_refused(shared_sandbox, tmp_path):
    with pytest.raises(ConfigError, match="mode must be left out"):
        shared_sandbox.put(tmp_path, "/workspace/tree", mode=0o644)


def test_a_missing_local_file_is_the_usual_error(shared_sandbox, tmp_path):
    with pytest.raises(FileNotFoundError):
        shared_sandbox.put(tmp_path / "none", "/workspace/none")


def test_a_local_fifo_is_refused_and_not_waited_for(shared_sandbox, tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="FIFO"):
        shared_sandbox.put(tmp_path / "pipe", "/workspace/pipe")


def test_special_files_of_a_tree_are_left_out_with_a_warning(shared_sandbox, tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")

    with pytest.warns(SkippedFileWarning, match="pipe: not a file"):
        shared_sandbox.put(tmp_path, "/workspace/special")

    assert shared_sandbox.run("ls /workspace/special").stdout == "file\n"


def test_a_tree_does_not_replace_a_file(shared_sandbox, tmp_path):
    with pytest.raises(CommandError, match=r"File exists|[Nn]ot a directory"):
        shared_sandbox.put(tmp_path, "/etc/passwd")


def test_the_root_of_a_copied_tree_is_made_with_its_parents(shared_sandbox, tmp_path):
    shared_sandbox.run("mkdir -p /workspace/copied/sub", check=True)

    back = shared_sandbox.get("/workspace/copied", tmp_path / "deep" / "down")

    assert [path.name for path in back.iterdir()] == ["sub"]


@pytest.mark.parametrize("name", ["taken", "ta$ken"])
def test_a_file_does_not_replace_a_directory(shared_sandbox, name):
    shared_sandbox.run(["mkdir", "-p", f"/workspace/{name}"], check=True)

    with pytest.raises((ApiError, CommandError), match=r"[Ii]s a directory"):
        shared_sandbox.put("x", f"/workspace/{name}")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param("ln -s /etc/passwd out", id="absolute link"),
        pytest.param("ln -s ../../../../outside out", id="link with .."),
        pytest.param("mkfifo pipe", id="FIFO"),
    ],
)
def test_a_hostile_tree_is_refused(shared_sandbox, tmp_path, make):
    shared_sandbox.run(
        f"rm -rf /workspace/evil && mkdir -p /workspace/evil && cd /workspace/evil && {make}", check=True
    )

    with pytest.raises(UnsafeArchiveError):
        shared_sandbox.get("/workspace/evil", tmp_path / "target")

    assert not (tmp_path / "target").exists()


def test_a_hostile_tar_program_is_refused_too(sandbox, tmp_path):
    # The sandbox may replace its own tar, so its output is validated on the host.
    forged = "import sys, tarfile\nt = tarfile.open(sys.argv[sys.argv.index('-f') + 1], 'w')\n"
    forged += "i = tarfile.TarInfo('../../evil')\nt.addfile(i)\nt.close()\n"
    sandbox.put(f"#!/usr/bin/env python3\n{forged}", "/usr/local/bin/tar", mode=0o755)

    with pytest.raises(UnsafeArchiveError, match=r"'\.\.'"):
        sandbox.get("/tmp", tmp_path / "target")

    assert list(Path(tmp_path).iterdir()) == []


def test_a_file_is_written_into_local_directories_that_are_not_there_yet(shared_sandbox, tmp_path):
    shared_sandbox.put("x", "/var/tmp/parents")

    assert shared_sandbox.get("/var/tmp/parents", tmp_path / "new" / "deep" / "file").read_text() == "x"


def test_a_path_object_names_a_path_in_the_sandbox(shared_sandbox):
    shared_sandbox.put("x", PurePosixPath("/var/tmp/pure"))

    assert shared_sandbox.get(PurePosixPath("/var/tmp/pure")) == b"x"
    assert shared_sandbox.run(["cat", PurePosixPath("/var/tmp/pure")]).stdout == "x"


def test_a_source_that_is_nothing_to_copy_is_refused(shared_sandbox):
    with pytest.raises(ConfigError, match="src must be bytes"):
        shared_sandbox.put(123, "/var/tmp/x")


@pytest.fixture
def made(shared_sandbox, request) -> str:
    """A directory in the sandbox for one test."""
    path = f"/var/tmp/{request.node.name.partition('[')[0]}"
    shared_sandbox.run(["mkdir", path], check=True)
    return path


def test_a_tree_with_the_systems_directories_leaves_the_system_alive(sandbox, tmp_path):
    names = ["bin/tool", "sbin/tool", "lib/x/file", "lib64/file"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    links = sandbox.run("for d in /bin /sbin /lib /lib64; do readlink $d; done; stat -c %a /tmp").stdout

    sandbox.put(tmp_path, "/")

    assert sandbox.run(["/bin/sh", "-c", "cd /usr && cat bin/tool lib64/file"]).stdout == "bin/toollib64/file"
    assert sandbox.run("for d in /bin /sbin /lib /lib64; do readlink $d; done; stat -c %a /tmp").stdout == links
    assert sandbox.run("ls -A / | grep opensandbox-").stdout == ""


@pytest.mark.parametrize("name", ["bin", "usr"])
def test_a_file_in_place_of_a_systems_directory_is_refused_by_name(sandbox, tmp_path, name):
    (tmp_path / name).write_text("x")

    with pytest.raises(CommandError, match=f"/{name} is a directory"):
        sandbox.put(tmp_path, "/")

    assert sandbox.run(["/bin/sh", "-c", "echo alive"]).stdout == "alive\n"


@pytest.mark.parametrize("name", ["file", "$file"])
def test_a_read_only_file_is_replaced(shared_sandbox, made, name):
    for content in (b"1", b"2"):
        shared_sandbox.put(content, f"{made}/{name}", mode=0o444)

    assert shared_sandbox.get(f"{made}/{name}") == b"2"
    assert shared_sandbox.run(["stat", "-c", "%a", f"{made}/{name}"]).stdout == "444\n"
    shared_sandbox.run(["rm", "-r", made], check=True)


def test_read_only_trees_can_be_put_again(shared_sandbox, made, tmp_path):
    source = tmp_path / "source"
    (source / "mod").mkdir(parents=True)
    (source / "mod" / "go.mod").write_text("m")
    (source / "mod" / "go.mod").chmod(0o444)
    (source / "mod").chmod(0o555)

    for _ in range(2):
        shared_sandbox.put(source, f"{made}/cache")

    shared_sandbox.put("new", f"{made}/cache/mod/new")
    shared_sandbox.put(b"changed", f"{made}/cache/mod/go.mod")
    assert shared_sandbox.run(f"cd {made}/cache/mod && cat go.mod new && stat -c %a .").stdout == "changednew555\n"


@pytest.mark.parametrize("way", ["file", "tree"])
def test_a_running_program_is_replaced(sandbox, tmp_path, way):
    sandbox.run("mkdir /opt/own && cp $(command -v sleep) /opt/own/program", check=True)
    sandbox.run("/opt/own/program 300 >/dev/null 2>&1 &", check=True)
    (tmp_path / "program").write_text("#!/bin/sh\necho new\n")
    (tmp_path / "program").chmod(0o755)

    if way == "file":
        sandbox.put(tmp_path / "program", "/opt/own/program")
    else:
        sandbox.put(tmp_path, "/opt/own")

    assert sandbox.run(["/opt/own/program"]).stdout == "new\n"
    assert sandbox.run("ls -A /opt/own").stdout == "program\n"


def test_a_tree_that_changes_meanwhile_is_copied(sandbox, tmp_path):
    sandbox.run("mkdir /srv/a && head -c 20000000 /dev/zero >/srv/a/old", check=True)
    sandbox.run("(while :; do echo line >>/srv/a/log; echo >/srv/a/x; rm -f /srv/a/x; done) >/dev/null 2>&1 &")

    copies = [sandbox.get("/srv/a", tmp_path / str(number)) for number in range(4)]

    assert [(copy / "old").stat().st_size for copy in copies] == [20_000_000] * 4
    assert all((copy / "log").exists() for copy in copies)


def test_hard_linked_links_are_copied(shared_sandbox, made, tmp_path):
    shared_sandbox.run(f"cd {made} && ln -s a l1 && ln l1 l2", check=True)

    copy = shared_sandbox.get(made, tmp_path / "copy")

    assert [os.readlink(copy / name) for name in ("l1", "l2")] == ["a", "a"]


@pytest.mark.parametrize(("links", "names"), [("skip", ["file"]), ("keep", ["absolute", "file"])])
def test_links_that_lead_outside_are_treated_as_asked(shared_sandbox, made, tmp_path, links, names):
    shared_sandbox.run(f"cd {made} && echo x >file && ln -s /usr/bin/env absolute", check=True)

    copy = shared_sandbox.get(made, tmp_path / "copy", links=links)

    assert sorted(os.listdir(copy)) == names
    shared_sandbox.run(["rm", "-r", made], check=True)


def test_links_that_lead_outside_refuse_the_tree_by_default(shared_sandbox, made, tmp_path):
    shared_sandbox.run(f"cd {made} && echo x >file && ln -s /usr/bin/env absolute", check=True)

    with pytest.raises(UnsafeArchiveError, match="links='skip'"):
        shared_sandbox.get(made, tmp_path / "copy")

    assert list(tmp_path.iterdir()) == []


def test_an_unknown_policy_for_links_is_refused(shared_sandbox, tmp_path):
    with pytest.raises(ConfigError, match="links must be one of error, skip, keep"):
        shared_sandbox.get("/srv", tmp_path / "copy", links="follow")


def test_a_single_file_takes_the_place_of_a_link(shared_sandbox, tmp_path):
    shared_sandbox.put("from the sandbox", "/var/tmp/single")
    (tmp_path / "host").write_text("of the host")
    (tmp_path / "copy").symlink_to("host")
    (tmp_path / "hard").hardlink_to(tmp_path / "host")

    copies = [shared_sandbox.get("/var/tmp/single", tmp_path / name) for name in ("copy", "hard")]

    assert [copy.read_text() for copy in copies] == ["from the sandbox"] * 2
    assert (tmp_path / "host").read_text() == "of the host"


def test_a_file_that_is_refused_leaves_the_local_one_as_it_was(shared_sandbox, tmp_path):
    (tmp_path / "copy").write_text("of the host")
    shared_sandbox.put(b"x" * 100, "/var/tmp/longer")

    with pytest.raises(FileTooLargeError):
        shared_sandbox.get("/var/tmp/longer", tmp_path / "copy", max_bytes=99)

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("copy", "of the host")]


def test_a_device_and_a_link_to_one_are_left_alone(shared_sandbox, tmp_path):
    shared_sandbox.put("x", "/var/tmp/for-a-device")
    (tmp_path / "link").symlink_to("/dev/null")

    for target in ("/dev/null", tmp_path / "link"):
        with pytest.raises(FileExistsError, match="it is a device"):
            shared_sandbox.get("/var/tmp/for-a-device", target)

    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("complaint", "is_usable"),
    [
        ("tar: ./gone: No such file or directory\ntar: error exit delayed from previous errors", True),
        ("tar: ./secret: Permission denied\ntar: error exit delayed from previous errors", False),
    ],
)
def test_a_file_that_vanished_from_a_tree_is_no_error(sandbox, tmp_path, complaint, is_usable):
    # Like BusyBox, whose tar has one status for every error.
    sandbox.run(["mkdir", "/srv/tree"], check=True)
    tool = f'#!/bin/sh\n[ "$1" = --version ] && exit 1\n/usr/bin/tar "$@"\nprintf %b {complaint!r} >&2\nexit 1\n'
    sandbox.put(tool, "/usr/local/bin/tar", mode=0o755)

    if is_usable:
        assert sandbox.get("/srv/tree", tmp_path / "copy").is_dir()
    else:
        with pytest.raises(CommandError, match="Permission denied"):
            sandbox.get("/srv/tree", tmp_path / "copy")
