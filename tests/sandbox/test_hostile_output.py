"""Hostile output and files of a real sandbox: too large, too deep, or changing while they are read."""

import resource

import pytest

from pytest_opensandbox.errors import FileTooLargeError, OpenSandboxError, UnsafeArchiveError
from pytest_opensandbox.settings.options import EMBEDDED

pytestmark = pytest.mark.thorough

CAP = 16 * 1024 * 1024
SWAP = """cd /workspace/swap && while :; do
rm -rf entry; ln -s ../../../../outside entry; rm -f entry; mkdir entry; touch entry/file; done"""


def test_ten_gigabytes_of_output_cost_no_more_memory_than_the_cap(sandbox, opensandbox_settings):
    # Ten times as much on this machine, whose kernel is the one that copies it, as on a server that others use.
    size = 10 if opensandbox_settings.url == EMBEDDED else 1
    before = peak()

    result = sandbox.run(f"head -c {size}G /dev/zero; echo the end", timeout=300, max_bytes=CAP)

    assert (result.truncated, len(result.stdout_bytes), result.stdout_bytes[-8:]) == (True, CAP, b"the end\n")
    assert peak() - before < 6 * CAP


def test_a_line_without_end_is_cut_like_everything_else(shared_sandbox):
    result = shared_sandbox.run("head -c 64M /dev/zero | tr '\\0' a", max_bytes=1000)

    assert (result.truncated, result.stdout) == (True, "a" * 1000)


def test_a_line_without_end_ends_a_callback_in_bounded_memory(shared_sandbox):
    before = peak()
    seen = []

    try:
        shared_sandbox.run(
            "head -c 64M /dev/zero | tr '\\0' a", on_stdout=lambda line: seen.append(len(line)), timeout=60
        )
    except OpenSandboxError as exc:
        seen.append(str(exc))

    assert seen
    assert peak() - before < 512 * 1024 * 1024


@pytest.mark.parametrize(
    ("prepare", "path"),
    [
        pytest.param("truncate -s 1T /var/tmp/big/file", "/var/tmp/big/file", id="a file"),
        pytest.param("truncate -s 1T /var/tmp/big/file", "/var/tmp/big", id="a tree with it"),
        pytest.param("head -c 3M /dev/zero >/var/tmp/big/file", "/var/tmp/big", id="a tree that is a little too large"),
    ],
)
def test_more_bytes_than_allowed_are_refused_and_leave_nothing(shared_sandbox, tmp_path, prepare, path):
    shared_sandbox.run(f"rm -rf /var/tmp/big && mkdir /var/tmp/big && {prepare}", check=True)

    with pytest.raises(FileTooLargeError):
        shared_sandbox.get(path, tmp_path / "target", max_bytes=2_000_000)

    assert not (tmp_path / "target").exists()
    assert shared_sandbox.run("du -sm /tmp /var/tmp --apparent-size --exclude=file | cut -f1").stdout.split() < [
        "9",
        "9",
    ]


def test_a_tree_with_names_that_no_host_takes_is_refused(shared_sandbox, tmp_path):
    shared_sandbox.run("rm -rf /var/tmp/deep; mkdir /var/tmp/deep", check=True)
    shared_sandbox.run(
        "cd /var/tmp/deep && for i in $(seq 20); do d=$(head -c 250 /dev/zero | tr '\\0' d); mkdir $d && cd $d; done"
    )

    with pytest.raises(UnsafeArchiveError, match="too long"):
        shared_sandbox.get("/var/tmp/deep", tmp_path / "target")

    shared_sandbox.run("rm -rf /var/tmp/deep")
    assert not (tmp_path / "target").exists()


def test_a_tree_that_changes_while_it_is_copied_leads_nowhere_else(sandbox, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    sandbox.run(f"mkdir /workspace/swap; ({SWAP}) >/dev/null 2>&1 &", check=True)

    for number in range(15):
        try:
            sandbox.get("/workspace/swap", tmp_path / "a" / str(number))
        except OpenSandboxError:
            continue

    assert list(outside.iterdir()) == []
    links = [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert [path for path in links if not path.resolve().is_relative_to(tmp_path / "a")] == []


def test_setuid_bits_do_not_arrive(shared_sandbox, tmp_path):
    shared_sandbox.run("mkdir -p /var/tmp/set && cp /bin/sh /var/tmp/set/sh && chmod 6755 /var/tmp/set/sh", check=True)

    tree = shared_sandbox.get("/var/tmp/set", tmp_path / "tree")
    file = shared_sandbox.get("/var/tmp/set/sh", tmp_path / "sh")

    assert [oct(path.stat().st_mode & 0o7000) for path in (tree / "sh", file)] == ["0o0", "0o0"]


def test_special_files_by_name_are_refused(shared_sandbox, tmp_path):
    shared_sandbox.run(
        "mkfifo /var/tmp/fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/var/tmp/sock\")'"
    )

    for path in ("/var/tmp/fifo", "/var/tmp/sock", "/dev/zero", "/proc/kmsg"):
        with pytest.raises(OpenSandboxError):
            shared_sandbox.get(path, tmp_path / "target")


def peak():
    """Return the most memory that this process has ever had; bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
