"""The agent's files as sandboxes see them: its libraries, and the parts of Python that it needs.

They lie behind overlays where the machine has them. A sandbox can lock a file that is bound from the host, and the
host's programs would wait for that lock.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pytest_opensandbox.embedded.runtime.host_files import INSIDE, LIBRARIES, AgentFiles, HostFiles, Interpreter
from pytest_opensandbox.embedded.runtime.system_layer import write_whiteout

PACKAGES = "/var/lib/dpkg"

_EMPTY, _LIBRARIES, _PYTHON = "empty", "lib", "python"
_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_OF_OTHERS = ("site-packages", "dist-packages")


def expose_agent_files(interpreter: Interpreter, whiteouts: Path) -> AgentFiles:
    """Write whiteouts for what lies beside the agent's files, so that sandboxes see these files only.

    Args:
        interpreter: the one that runs the agent.
        whiteouts: a directory, which is made, for the whiteouts that hide the rest.
    """
    for name in (_EMPTY, _LIBRARIES, _PYTHON):
        (whiteouts / name).mkdir(parents=True)
    modules = [(Path(source), Path(inside)) for source, inside in interpreter.binds if _is_library(inside)]
    library = modules[-1][0].parent
    others = [(source, inside) for source, inside in modules if source.parent != library]
    _whiteout_others(library, whiteouts / _LIBRARIES, {inside.name for _, inside in modules})
    for _, inside in others:
        (whiteouts / _LIBRARIES / inside.name).mkdir()
    for python, place in interpreter.binds:
        if not _is_library(place):
            _whiteout_all_but_python(Path(python), Path(interpreter.executable).name, whiteouts / _PYTHON)
    return AgentFiles(whiteouts, str(library), tuple((str(source), str(inside)) for source, inside in others))


def is_in_library_directory(interpreter: Interpreter, place: Path) -> bool:
    """Say whether a directory lies in one that holds libraries of the agent.

    Args:
        interpreter: the one that runs the agent.
        place: the directory.
    """
    real = Path(os.path.realpath(place))
    sources = [(Path(os.path.realpath(source)), inside) for source, inside in interpreter.binds]
    return any((source.parent if _is_library(inside) else source) in real.parents for source, inside in sources)


def copy_agent_files(files: AgentFiles, interpreter: Interpreter, target: Path) -> AgentFiles:
    """Copy the agent and its libraries to where the users of sandboxes can read them.

    Args:
        files: their places, with the whiteouts.
        interpreter: the one that runs the agent.
        target: a directory, which is made.
    """
    target.mkdir()
    library = target / _LIBRARIES
    library.mkdir()
    for source, inside in interpreter.binds:
        if _is_library(inside):
            shutil.copytree(source, library / os.path.relpath(inside, LIBRARIES))
    for directory, _, names in os.walk(target):  # the umask may have made them unreadable for others
        os.chmod(directory, 0o755)  # noqa: S103 - the sandboxes' users must read it
        for name in names:
            with suppress(OSError):
                os.chmod(os.path.join(directory, name), 0o644)
    shutil.rmtree(files.whiteouts / _LIBRARIES)
    (files.whiteouts / _LIBRARIES).mkdir()
    return replace(files, library=str(library), others=())


def agent_options(host: HostFiles, *, is_copy_on_write: bool) -> Iterator[str]:
    """Yield the options that put the agent, and what ``dpkg`` knows, into a sandbox.

    Args:
        host: the host's files that it sees.
        is_copy_on_write: whether there are overlays.
    """
    files = host.agent_files
    if files is None or not is_copy_on_write:
        yield from _bound(host)
        return
    if os.path.isdir(PACKAGES):
        yield from _behind_overlay(PACKAGES, files.whiteouts / _EMPTY, PACKAGES)
    yield from ("--perms", "0755", "--dir", INSIDE)
    yield from _behind_overlay(files.library, files.whiteouts / _LIBRARIES, LIBRARIES)
    for source, inside in files.others:
        yield from _behind_overlay(source, files.whiteouts / _EMPTY, inside)
    for source, inside in host.interpreter.binds:
        if not _is_library(inside):
            yield from _behind_overlay(source, files.whiteouts / _PYTHON, inside)


def _bound(host: HostFiles) -> Iterator[str]:
    """Yield the options that bind every part by itself."""
    yield from ("--ro-bind-try", PACKAGES, PACKAGES)
    for directory in (INSIDE, LIBRARIES):
        yield from ("--perms", "0755", "--dir", directory)
    for source, inside in host.interpreter.binds:
        if _is_library(inside):
            yield from ("--ro-bind", source, inside)
            continue
        for part in (f"bin/{Path(host.interpreter.executable).name}", *_parts(Path(source))):
            yield from ("--ro-bind", f"{source}/{part}", f"{inside}/{part}")


def _behind_overlay(source: str, above: Path, place: str) -> Iterator[str]:
    yield from ("--overlay-src", source, "--overlay-src", str(above), "--ro-overlay", place)


def _is_library(inside: str) -> bool:
    return inside.startswith(f"{LIBRARIES}/")


def _parts(base: Path) -> list[str]:
    """Return what Python needs besides its program, relative to its prefix."""
    return [
        f"{library}/{path.name}"
        for library in ("lib", "lib64")
        if not (base / library).is_symlink()
        for path in sorted((base / library).glob("*"))
        if path.name == _VERSION or path.name.startswith("libpython")
    ]


def _whiteout_all_but_python(base: Path, program: str, whiteouts: Path) -> None:
    """Mark what is not Python's below its prefix: others may have put their programs there, and their files."""
    parts = [f"bin/{program}", *_parts(base)]
    tops = {part.partition("/")[0] for part in parts}
    links = {name for name in ("lib", "lib64") if (base / name).is_symlink()}
    _whiteout_others(base, whiteouts, tops | links)
    for top in tops:
        (whiteouts / top).mkdir()
        _whiteout_others(
            base / top, whiteouts / top, {part.partition("/")[2] for part in parts if part.startswith(f"{top}/")}
        )
    for part in parts:
        for name in _OF_OTHERS:
            if (base / part / name).is_dir():
                (whiteouts / part).mkdir(exist_ok=True)
                write_whiteout(whiteouts / part / name)


def _whiteout_others(directory: Path, whiteouts: Path, kept: set[str]) -> None:
    for name in os.listdir(directory):
        if name not in kept:
            write_whiteout(whiteouts / name)
