"""Temporary directories: kept while a process holds them, removed by a later run otherwise."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from pytest_opensandbox.temporary_directories import hold, remove_abandoned, remove_unheld, temporary_directory


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def held():
    """A directory and the descriptor that holds it."""
    path = temporary_directory("setups", "x")
    lock = hold(path)
    yield path, lock
    os.close(lock)


def age(path):
    old = time.time() - 3600
    os.utime(path, (old, old))


def test_a_held_directory_stays(held):
    path, _ = held
    age(path)

    remove_abandoned()
    remove_unheld(path)

    assert path.is_dir()
    assert path.stat().st_mode & 0o777 == 0o700


def test_the_directory_of_a_killed_process_is_removed(tmp_path):
    path = temporary_directory("docker", "x")
    code = f"""if True:
        import pathlib, time
        from pytest_opensandbox.temporary_directories import hold
        hold(pathlib.Path({str(path)!r}))
        print(flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        owner.stdout.readline()
        age(path)
        remove_abandoned()
        before = path.is_dir()
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    remove_abandoned()

    assert before
    assert not path.exists()


def test_a_directory_stays_until_its_last_holder_releases_it(held):
    path, _ = held
    second = hold(path)

    os.close(second)
    remove_unheld(path)

    assert path.is_dir()


def test_a_young_directory_stays_as_it_may_not_be_held_yet():
    path = temporary_directory("setups", "young")
    os.close(hold(path))

    remove_abandoned()

    assert path.is_dir()


@pytest.mark.parametrize("kind", ["a link", "no lock", "a linked lock", "a file", "another name"])
def test_a_directory_of_another_program_stays(tmp_path, kind):
    """Every user can write to the directory for temporary files, and may put a trap there."""
    victim = tmp_path / "victim"
    os.close(hold(victim))
    (victim / "precious").touch()
    path = temporary_directory("setups", "x")
    if kind == "a link":
        path.symlink_to(victim)
    elif kind == "a file":
        path.touch()
    elif kind == "another name":
        path = tmp_path / "pytest-opensandbox-mine"
        os.close(hold(path))
    else:
        path.mkdir()
        if kind == "a linked lock":
            (path / "lock").symlink_to(victim / "lock")
    for one in (path, victim):
        age(one)

    remove_abandoned()

    assert (victim / "precious").exists()
    assert os.path.lexists(path)


def test_a_directory_that_is_being_removed_is_created_again(held):
    """Another run removes it between the moment in which it is opened and the one in which it is held."""
    path, _ = held
    os.unlink(path / "lock")

    lock = hold(path)

    assert (path / "lock").exists()
    os.close(lock)
