"""Namespaces without an agent: overlays, read-only binds in place of them, and refusals."""

import os
from pathlib import Path

import pytest

from pytest_opensandbox.embedded.runtime.bubblewrap import (
    PATH,
    Bubblewrap,
    BubblewrapRefusedError,
    find_bubblewrap,
    sandbox_options,
)
from pytest_opensandbox.embedded.runtime.directories import RuntimeDirectory
from pytest_opensandbox.embedded.runtime.host_files import find_host_files
from pytest_opensandbox.embedded.runtime.limits import private_bytes
from pytest_opensandbox.embedded.runtime.system_layer import build_layer


@pytest.fixture(scope="module")
def host():
    return find_host_files()


@pytest.fixture(scope="module")
def layer():
    directory = RuntimeDirectory()
    build_layer(directory.layer)
    yield directory.layer
    directory.remove()


@pytest.fixture(scope="module")
def found(host, layer):
    return find_bubblewrap(host, layer)


@pytest.fixture
def read_only(host, layer, found):
    """A bubblewrap as on a machine that refuses overlays."""
    options = tuple(sandbox_options(host, layer, is_copy_on_write=False))
    return Bubblewrap(found.executable, options, is_copy_on_write=False)


def run(bubblewrap, command, tmp_path):
    """Run a line of shell in a sandbox; return its exit status and its output."""
    with open(tmp_path / "output", "w+b") as output:
        process = bubblewrap.start(
            ["sh", "-c", command], environment={"PATH": PATH, "GIVEN": "a\nb"}, fds=(), output=output.fileno()
        )
        status = process.wait(30)
        output.seek(0)
        return status, output.read().decode()


def test_overlays_work_here(found):
    assert found.is_copy_on_write


def test_sandboxes_are_guarded_here(found):
    assert found.outer_options


def test_a_machine_without_nested_namespaces_has_sandboxes_all_the_same(host, layer, found, tmp_path):
    single = tmp_path / "bin" / "bwrap"
    single.parent.mkdir()
    refusal = 'case "$1" in *unshare*) echo "bwrap: No permissions to create new namespace" >&2; exit 1;; esac'
    single.write_text(f'#!/bin/sh\n{refusal}\nexec {found.executable} "$@"\n')
    single.chmod(0o755)

    alone = find_bubblewrap(host, layer, [str(single)])

    assert (alone.outer_options, alone.is_copy_on_write) == ((), True)
    assert run(alone, "echo here", tmp_path) == (0, "here\n")


def test_a_read_only_system_is_enough_to_run_a_program(read_only, tmp_path):
    assert run(read_only, "cat /etc/hostname; python3 --version >&2 || true", tmp_path)[0] == 0


def test_a_read_only_system_refuses_writes_and_leaves_room_elsewhere(read_only, tmp_path):
    status, output = run(
        read_only, "for d in /etc /usr /usr/bin /tmp /root /workspace; do touch $d/x && echo $d; done", tmp_path
    )

    assert status == 0
    assert [line for line in output.splitlines() if line.startswith("/")] == ["/tmp", "/root", "/workspace"]


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot read it outside either")
def test_a_read_only_system_hides_what_only_root_can_read(read_only, tmp_path):
    status, output = run(read_only, "cat /etc/shadow", tmp_path)

    assert status != 0
    assert ":" not in output.partition("cat: ")[0]


def test_a_value_with_a_line_break_arrives(found, tmp_path):
    assert run(found, 'printf %s "$GIVEN"', tmp_path) == (0, "a\nb")


def test_the_environment_of_process_1_is_the_sandbox_s_own(found, tmp_path):
    _, output = run(found, "tr '\\0' ' ' < /proc/1/environ", tmp_path)

    assert set(output.split()) - {"PWD=/"} == {f"PATH={PATH}", "GIVEN=a", "b"}


def test_descriptors_of_the_server_do_not_leak(found, tmp_path):
    with open("/etc/hostname") as held:
        os.set_inheritable(held.fileno(), True)

        assert run(found, "ls -l /proc/self/fd | grep -c hostname", tmp_path)[1] == "0\n"


def test_the_sandbox_has_names_of_its_own(found, tmp_path):
    status, output = run(found, "hostname; cat /etc/hostname; wc -c < /etc/machine-id; getent hosts sandbox", tmp_path)

    assert output.split()[:3] == ["sandbox", "sandbox", "0"]
    assert status == 0


def test_space_in_private_directories_is_limited(found, tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    _, output = run(found, "df --block-size=1 --output=size / | tail -1", tmp_path)

    assert 0 < int(output) < max(memory // 3, 300 << 20)


def test_space_is_limited_all_together_where_there_is_no_namespace_around(read_only, tmp_path):
    _, output = run(read_only, "df --block-size=1 --output=size / /dev/shm | tail -2", tmp_path)

    assert sum(map(int, output.split())) <= private_bytes() + 2 * os.sysconf("SC_PAGE_SIZE")  # each is rounded up


@pytest.fixture
def refusing(tmp_path):
    """A program that refuses with bubblewrap's message."""
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    return str(program)


def test_refusals_are_told_in_bubblewrap_s_words(host, layer, refusing):
    with pytest.raises(BubblewrapRefusedError, match="No permissions to create new namespace"):
        find_bubblewrap(host, layer, [refusing])


def test_the_next_program_is_tried_when_one_refuses(host, layer, found, refusing):
    assert find_bubblewrap(host, layer, [refusing, "/no/such/bwrap", found.executable]) == found


def test_without_any_program_the_refusal_says_so(host, layer):
    with pytest.raises(BubblewrapRefusedError, match="bwrap is not installed"):
        find_bubblewrap(host, layer, [])


def test_the_layer_of_an_ordinary_user_holds_directories_to_write_to(layer):
    mirrored = {str(path.relative_to(layer)) for path in layer.rglob("*") if path.is_dir()}

    assert {"etc", "usr"} <= mirrored
    assert os.geteuid() == 0 or {"usr/bin", "usr/lib", "usr/local/bin"} <= mirrored


def test_a_runtime_directory_goes_when_it_is_removed():
    directory = RuntimeDirectory()
    path = directory.path

    directory.remove()
    directory.remove()

    assert not Path(path).exists()
