"""Replacing a single file: the new one appears when it is complete, and not before."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_opensandbox.sandbox.local_files import open_replacement

NOBODY = 65534


@pytest.fixture
def closed_directory():
    """A directory with a writable file, in which no other file can be created."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    target = directory / "file"
    target.write_bytes(b"as it was")
    target.chmod(0o666)
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.chown(target, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        os.seteuid(user)
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_a_refused_file_leaves_the_one_in_a_closed_directory_as_it_was(closed_directory):
    target = closed_directory / "file"

    with suppress(ValueError), open_replacement(target, 0o666) as file:
        file.write(b"the beginning of another")
        raise ValueError("too large")

    assert target.read_bytes() == b"as it was"


def test_a_file_in_a_closed_directory_is_replaced_in_its_place(closed_directory):
    target = closed_directory / "file"
    inode = target.stat().st_ino

    with open_replacement(target, 0o666) as file:
        file.write(b"new")

    assert (target.read_bytes(), target.stat().st_ino) == (b"new", inode)
