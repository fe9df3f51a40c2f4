"""What a sandbox sees of the agent's libraries and of Python: nothing of what lies beside them."""

import os
import stat
import sys
from pathlib import Path

import pytest

from pytest_opensandbox.embedded.runtime.agent_files import (
    agent_options,
    copy_agent_files,
    expose_agent_files,
    is_in_library_directory,
)
from pytest_opensandbox.embedded.runtime.host_files import LIBRARIES, PYTHON, HostFiles, Interpreter

VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def prefix(tmp_path):
    """A Python in a home directory, among the programs and files of its user."""
    base = tmp_path / "local"
    for name in (f"bin/{VERSION}", "bin/tool", f"lib/{VERSION}/os.py", f"lib/{VERSION}/site-packages/mine.py"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("x")
    for name in (f"lib/lib{VERSION}.so.1.0", "lib/mine.so", "share/notes"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("x")
    return base


@pytest.fixture
def interpreter(prefix, tmp_path):
    site, agent = tmp_path / "site", tmp_path / "package" / "agent"
    parts = ("secrets.py", "other/part.py", "waitress/task.py", "python_multipart/multipart.py")
    for path in (*(site / part for part in parts), agent / "server.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    binds = (
        (str(agent), f"{LIBRARIES}/opensandbox_agent"),
        (str(site / "waitress"), f"{LIBRARIES}/waitress"),
        (str(site / "python_multipart"), f"{LIBRARIES}/python_multipart"),
        (str(prefix), PYTHON),
    )
    return Interpreter(f"{PYTHON}/bin/{VERSION}", binds)


def hidden_in(whiteouts):
    """Return what is marked as deleted below a directory."""
    paths = [path for path in whiteouts.rglob("*") if not path.is_dir()]
    assert all(stat.S_ISCHR(path.lstat().st_mode) or path.stat().st_size == 0 for path in paths)
    return {str(path.relative_to(whiteouts)) for path in paths}


def test_of_a_python_in_a_home_only_python_is_seen(interpreter, tmp_path):
    expose_agent_files(interpreter, tmp_path / "whiteouts")

    hidden = hidden_in(tmp_path / "whiteouts" / "python")

    assert hidden == {"bin/tool", f"lib/{VERSION}/site-packages", "lib/mine.so", "share"}


def test_of_a_directory_of_libraries_only_the_agent_s_are_seen(interpreter, tmp_path):
    files = expose_agent_files(interpreter, tmp_path / "whiteouts")

    assert hidden_in(tmp_path / "whiteouts" / "lib") == {"secrets.py", "other"}
    assert (files.library, files.others) == (
        str(tmp_path / "site"),
        ((str(tmp_path / "package" / "agent"), f"{LIBRARIES}/opensandbox_agent"),),
    )


def test_copies_are_for_everybody_to_read(interpreter, tmp_path):
    (tmp_path / "site" / "waitress").chmod(0o700)
    (tmp_path / "site" / "waitress" / "task.py").chmod(0o600)

    copies = copy_agent_files(expose_agent_files(interpreter, tmp_path / "whiteouts"), interpreter, tmp_path / "copies")

    found = {str(path.relative_to(copies.library)): path for path in Path(copies.library).rglob("*")}
    assert {"python_multipart/multipart.py", "waitress/task.py", "opensandbox_agent/server.py"} <= set(found)
    assert "secrets.py" not in found
    assert all(os.stat(path).st_mode & 0o004 for path in found.values())
    assert copies.others == ()


@pytest.mark.parametrize("is_copy_on_write", [True, False])
def test_nothing_else_of_the_host_is_a_source(interpreter, tmp_path, is_copy_on_write):
    files = expose_agent_files(interpreter, tmp_path / "whiteouts")
    host = HostFiles(
        directories=(), links=(), hidden_files=(), hidden_directories=(), interpreter=interpreter, agent_files=files
    )

    options = list(agent_options(host, is_copy_on_write=is_copy_on_write))

    bound = [options[index + 1] for index, option in enumerate(options) if option == "--ro-bind"]
    assert str(tmp_path / "local") not in bound
    assert bool(bound) is not is_copy_on_write


def test_whiteouts_may_not_lie_beside_the_libraries(interpreter, tmp_path):
    assert is_in_library_directory(interpreter, tmp_path / "site" / "tmp" / "whiteouts")
    assert not is_in_library_directory(interpreter, tmp_path / "elsewhere" / "whiteouts")
