"""The root file system of the test image: a small Debian with python3, built once and kept for the next run.

``python -m tests.server.rootfs`` builds it ahead of the tests; only the standard library, as nothing is installed then.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.server.engine import release, rootfs_archive

_EXCLUDED = ("./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/man", "./usr/share/locale")


def root_file_system() -> Path:
    """Return the path of the tar; the first call builds it, which takes minutes, and others wait for that."""
    archive = rootfs_archive()
    archive.parent.mkdir(parents=True, exist_ok=True)
    with open(archive.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _build(archive)
    return archive


def _build(archive: Path) -> None:
    # Not in /tmp, which may be a mount without devices.
    with tempfile.TemporaryDirectory(dir=archive.parent) as directory:
        root, packed = f"{directory}/root", f"{directory}/root.tar"
        include = "--include=bash,procps,python3-minimal,python3,tar"
        subprocess.run(["debootstrap", "--variant=minbase", include, release(), root, *_mirror()], check=True)
        excluded = [f"--exclude={place}/*" for place in _EXCLUDED]
        subprocess.run(["tar", "-C", root, *excluded, "-cf", packed, "."], check=True)
        os.replace(packed, archive)


def _mirror() -> list[str]:
    """Return the address of this machine's own package mirror, which can be reached."""
    if shutil.which("apt-get") is None:
        return []
    facts = "$(CODENAME) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", facts, "Identifier: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [uri for name, _, uri in (line.partition(" ") for line in lines) if name == release()][:1]


if __name__ == "__main__":
    root_file_system()
