"""The root file system of the test image: a small Debian with python3, made once and kept for the next run.

``python -m tests.server.rootfs`` makes it ahead of the tests; only the standard library, as nothing is installed then.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.server.engine import release, rootfs_archive

_LEFT_OUT = ("./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/man", "./usr/share/locale")


def root_file_system() -> Path:
    """Return the tar; the first time it takes minutes, and whoever comes second waits for the first."""
    archive = rootfs_archive()
    archive.parent.mkdir(parents=True, exist_ok=True)
    with open(archive.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(archive)
    return archive


def _make(archive: Path) -> None:
    # A mount of its own may forbid devices, as /tmp sometimes does.
    with tempfile.TemporaryDirectory(dir=archive.parent) as directory:
        root, packed = f"{directory}/root", f"{directory}/root.tar"
        include = "--include=bash,python3-minimal,python3,tar"
        subprocess.run(["debootstrap", "--variant=minbase", include, release(), root, *_mirror()], check=True)
        left_out = [f"--exclude={place}/*" for place in _LEFT_OUT]
        subprocess.run(["tar", "-C", root, *left_out, "-cf", packed, "."], check=True)
        os.replace(packed, archive)


def _mirror() -> list[str]:
    """Return the address from which this machine has its own packages, so that one is used that can be reached."""
    if shutil.which("apt-get") is None:
        return []
    facts = "$(CODENAME) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", facts, "Identifier: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [uri for name, _, uri in (line.partition(" ") for line in lines) if name == release()][:1]


if __name__ == "__main__":
    root_file_system()
