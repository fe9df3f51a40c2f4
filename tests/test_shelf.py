"""One process makes a thing, the others wait for it: also where that process dies."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_opensandbox.errors import OpenSandboxError
from pytest_opensandbox.provisioning.shared_store import Shelf


@pytest.fixture
def shelf():
    shelf = Shelf()
    yield shelf
    shelf.clear()


def test_nothing_is_on_disk_before_something_is_made(shelf):
    assert shelf.find("k") is None
    assert not Path(shelf.path).exists()


def test_a_directory_that_is_of_no_use_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    shelf = Shelf(str(tmp_path / "file/below"))

    with (
        pytest.raises(
            OpenSandboxError, match=r"\(Not a directory: .*/file/below\): .* set TMPDIR to another directory"
        ),
        shelf.locked("k"),
    ):
        pass


def test_what_one_leaves_another_finds(shelf):
    with shelf.locked("k"):
        shelf.store("k", {"snapshot": "p1"})

    assert Shelf(shelf.path).find("k") == {"snapshot": "p1"}
    assert shelf.find("other") is None
    assert Path(shelf.path).stat().st_mode & 0o777 == 0o700


def test_only_its_keeper_clears_it(shelf):
    with shelf.locked("k"):
        shelf.store("k", {})

    Shelf(shelf.path).clear()
    kept = Path(shelf.path).exists()
    shelf.clear()

    assert kept
    assert not Path(shelf.path).exists()


def test_the_last_worker_of_a_killed_keeper_clears_it(shelf, monkeypatch):
    first, last = Shelf(shelf.path), Shelf(shelf.path)
    for worker in (first, last):
        with worker.locked("k"):
            pass
    monkeypatch.setattr(os, "getppid", lambda: 1)

    first.clear()
    kept = Path(shelf.path).exists()
    last.clear()

    assert kept
    assert not Path(shelf.path).exists()


def test_two_shelves_do_not_meet(shelf):
    assert Shelf().path != shelf.path


def test_one_at_a_time_makes_a_thing(shelf):
    # Threads of one process stand for processes: each opens the lock for itself.
    inside = []
    most = []

    def make():
        with shelf.locked("k"):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 8


def test_other_things_are_made_meanwhile(shelf):
    with shelf.locked("a"), shelf.locked("b"):
        shelf.store("b", {})

    assert shelf.find("b") == {}


def test_a_process_that_dies_over_it_keeps_nobody_waiting(shelf):
    # A lock that outlived its holder would hang every other worker of the run.
    code = f"""
import os
from pytest_opensandbox.provisioning.shared_store import Shelf

with Shelf({shelf.path!r}).locked("k"):
    os._exit(9)
"""
    dead = subprocess.run([sys.executable, "-c", code], check=False)

    with shelf.locked("k"):
        found = shelf.find("k")

    assert dead.returncode == 9
    assert found is None
