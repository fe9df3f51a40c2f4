"""The host's files that a sandbox sees: system directories, less what is private, and a Python for the agent."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from pytest_opensandbox.embedded.runtime.system_layer import is_private

INSIDE = "/opt/opensandbox"
LIBRARIES = f"{INSIDE}/lib"
PYTHON = f"{INSIDE}/python"

_AGENT_LIBRARIES = ("waitress", "python_multipart")
_SYSTEM = ("usr", "etc", "opt", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Root in a sandbox has no capabilities; but where it is the host's uid 0, it owns these files.
_PROC_FILES = ("kcore", "keys", "latency_stats", "mtrr", "sched_debug", "sysrq-trigger", "timer_list")
_DEPTH = 6
_PROC_TREES = ("acpi", "asound", "fs", "scsi")


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the agent, as the sandbox sees it."""

    executable: str
    """Path inside the sandbox."""
    binds: tuple[tuple[str, str], ...]
    """Pairs of host path and path inside, all read-only."""
    library_path: str = ""
    """Directory inside that holds libpython, or "" where the loader finds it alone."""


@dataclass(frozen=True)
class AgentFiles:
    """The places of the agent's files, and the whiteouts that hide what lies beside them."""

    whiteouts: Path
    """The directory with the whiteouts."""
    library: str
    """Directory with the agent's libraries, or with most of them."""
    others: tuple[tuple[str, str], ...]
    """Pairs of path and path inside of further directories."""


@dataclass(frozen=True)
class HostFiles:
    """The host's files that a sandbox sees; looked up once per server."""

    directories: tuple[str, ...]
    """Top-level system directories, absolute."""
    links: tuple[tuple[str, str], ...]
    """Top-level symbolic links: target, absolute name."""
    hidden_files: tuple[str, ...]
    """Files that a sandbox must not read, absolute."""
    hidden_directories: tuple[str, ...]
    """Directories that appear empty, absolute."""
    interpreter: Interpreter
    copier: str = str(Path(__file__).parents[1] / "copier")
    """Directory of the copier."""
    agent_files: AgentFiles | None = None
    """The agent's files behind overlays; None where each part is bound."""


def find_host_files(*, has_own_users: bool = False) -> HostFiles:
    """Return the host's files that sandboxes see.

    Args:
        has_own_users: whether sandboxes have users of their own, for whom the kernel keeps private files closed.
    """
    present = [Path("/", name) for name in _SYSTEM if Path("/", name).exists()]
    files, directories = ([], []) if has_own_users else _private_paths()
    return HostFiles(
        directories=tuple(str(path) for path in present if not path.is_symlink()),
        links=tuple((os.readlink(path), str(path)) for path in present if path.is_symlink()),
        hidden_files=tuple(dict.fromkeys([*files, *_existing(_PROC_FILES)])),
        hidden_directories=(*directories, *_existing(_PROC_TREES)),
        interpreter=_find_interpreter(),
    )


def _existing(names: Sequence[str]) -> list[str]:
    return [f"/proc/{name}" for name in names if os.path.exists(f"/proc/{name}")]


def _private_paths() -> tuple[list[str], list[str]]:
    """Return files and directories in system places that an ordinary user of this machine could not read.

    The server of an ordinary user cannot read them either; a server that runs as root must hide them.
    """
    files: list[str] = []
    directories: list[str] = []
    if os.geteuid() != 0:
        return files, directories
    for top, depth in (("/etc", 12), ("/usr/local", _DEPTH), ("/opt", _DEPTH), ("/proc", 1)):
        for path, is_directory in _unreadable(top, depth):
            (directories if is_directory else files).append(path)
    return files, directories


def _unreadable(directory: str, depth: int) -> Iterator[tuple[str, bool]]:
    """Yield path and is-a-directory of what lacks permissions for others, not looking below what is yielded."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # removed in the meantime
            continue
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_private(status):
            yield entry.path, is_directory
        elif is_directory and depth > 1:
            yield from _unreadable(entry.path, depth - 1)


def _find_interpreter() -> Interpreter:
    """Return the server's own Python, moved below ``/opt/opensandbox`` unless the sandbox has it anyway."""
    base = os.path.realpath(sys.base_prefix)
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if not executable.startswith(f"{base}/"):
        executable = f"{base}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    libraries = _library_binds()
    if f"{base}/".startswith(("/usr/", "/opt/")):
        return Interpreter(executable, libraries, _library_directory(base))
    inside = PYTHON
    return Interpreter(
        executable.replace(base, inside, 1),
        ((base, inside), *libraries),
        _library_directory(base).replace(base, inside, 1),
    )


def _library_directory(base: str) -> str:
    """Return where a shared libpython lies below the prefix, "" for a static build or one in a standard place."""
    if base == "/usr":
        return ""
    pattern = f"libpython{sys.version_info[0]}.{sys.version_info[1]}*.so*"
    return next((str(path.parent) for path in Path(base, "lib").glob(pattern)), "")


def _library_binds() -> tuple[tuple[str, str], ...]:
    """Return the agent's package and the libraries that it imports, each with its place inside."""
    agent = Path(__file__).parents[1] / "agent"
    found = [importlib.util.find_spec(name) for name in _AGENT_LIBRARIES]  # the server looked for them when it started
    libraries = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    return (
        (str(agent), f"{LIBRARIES}/opensandbox_agent"),
        *((str(library), f"{LIBRARIES}/{library.name}") for library in libraries),
    )


def compile_ahead(*interpreters: Interpreter) -> None:
    """Compile the agent's sources once, in a thread, so that not every sandbox does.

    Sandboxes see these directories read-only. Where the server cannot write to them either, each agent compiles in
    memory, and starts later.

    Args:
        interpreters: the one that will run the agent, with its libraries where they lie, and with copies of them.
    """
    libraries = [Path(source) for known in interpreters for source, inside in known.binds if "/lib/" in inside]
    threading.Thread(target=_compile, args=(libraries,), name="bytecode", daemon=True).start()


def _compile(libraries: list[Path]) -> None:
    for library in libraries:
        for source in sorted(library.rglob("*.py")):
            with suppress(OSError, SyntaxError, ValueError):
                # Reads bytecode that is there and fits, else compiles and writes it, as an import would.
                SourceFileLoader(source.stem, str(source)).get_code(source.stem)
