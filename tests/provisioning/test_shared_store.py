"""One process builds a value, the others wait for it, also where that process dies."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_opensandbox.errors import OpenSandboxError
from pytest_opensandbox.provisioning.shared_store import SharedStore


@pytest.fixture
def store():
    store = SharedStore()
    yield store
    store.clear()


def test_nothing_is_on_disk_before_a_value_is_built(store):
    assert store.find("k") is None
    assert not Path(store.path).exists()


def test_a_directory_that_cannot_be_used_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    store = SharedStore(str(tmp_path / "file/below"))

    with (
        pytest.raises(
            OpenSandboxError, match=r"\(Not a directory: .*/file/below\): .* set TMPDIR to another directory"
        ),
        store.locked("k"),
    ):
        pass


def test_what_one_process_stores_another_finds(store):
    with store.locked("k"):
        store.store("k", {"snapshot": "p1"})

    assert SharedStore(store.path).find("k") == {"snapshot": "p1"}
    assert store.find("other") is None
    assert Path(store.path).stat().st_mode & 0o777 == 0o700


def test_only_the_process_that_created_it_clears_it(store):
    with store.locked("k"):
        store.store("k", {})

    SharedStore(store.path).clear()
    kept = Path(store.path).exists()
    store.clear()

    assert kept
    assert not Path(store.path).exists()


def test_the_last_worker_of_a_killed_controller_clears_it(store, monkeypatch):
    first, last = SharedStore(store.path), SharedStore(store.path)
    for worker in (first, last):
        with worker.locked("k"):
            pass
    monkeypatch.setattr(os, "getppid", lambda: 1)

    first.clear()
    kept = Path(store.path).exists()
    last.clear()

    assert kept
    assert not Path(store.path).exists()


def test_two_stores_have_different_directories(store):
    assert SharedStore().path != store.path


def test_one_at_a_time_builds_a_value(store):
    # Threads of one process stand for processes: each opens the lock for itself.
    inside = []
    most = []

    def make():
        with store.locked("k"):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 8


def test_other_values_are_built_meanwhile(store):
    with store.locked("a"), store.locked("b"):
        store.store("b", {})

    assert store.find("b") == {}


def test_a_process_that_dies_keeps_no_other_waiting(store):
    # A lock that outlived its holder would hang every other worker of the run.
    code = f"""
import os
from pytest_opensandbox.provisioning.shared_store import SharedStore

with SharedStore({store.path!r}).locked("k"):
    os._exit(9)
"""
    dead = subprocess.run([sys.executable, "-c", code], check=False)

    with store.locked("k"):
        found = store.find("k")

    assert dead.returncode == 9
    assert found is None
