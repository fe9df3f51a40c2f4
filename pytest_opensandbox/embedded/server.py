"""The embedded server: its directories, its way to create sandboxes, and its start and end."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_opensandbox.embedded.errors import StartError
from pytest_opensandbox.embedded.runtime.agent_files import expose_agent_files, is_in_library_directory
from pytest_opensandbox.embedded.runtime.bubblewrap import (
    Bubblewrap,
    BubblewrapRefusedError,
    executables_here,
    find_bubblewrap,
    with_layers,
)
from pytest_opensandbox.embedded.runtime.directories import SHARED_MEMORY, RuntimeDirectory
from pytest_opensandbox.embedded.runtime.event_loop import BackgroundLoop
from pytest_opensandbox.embedded.runtime.host_files import compile_ahead, find_host_files
from pytest_opensandbox.embedded.runtime.identities import Identities
from pytest_opensandbox.embedded.runtime.private_files import PrivateFileSearch
from pytest_opensandbox.embedded.runtime.requirements import likely_cause
from pytest_opensandbox.embedded.runtime.system_layer import build_layer

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

_READ_ONLY = "this machine refuses overlays, so /usr, /etc and /opt are read-only in the sandbox"
_SAME_ROOT = (
    "this root may not give sandboxes users of their own: root in a sandbox is root outside, without any capability"
)
_NOT_NESTED = "this machine refuses nested namespaces, so hostile code may outlive a server that is killed"

_UNFILTERED = (
    "this machine has no seccomp filter for sandboxes: their system calls are only limited by the kernel's rules"
)

_TRY_AGAIN = "root's sandboxes have users of their own, and cannot get them now: end other servers, or try again later"
# Shortages that may pass, such as a full disk.
_TEMPORARY = frozenset({errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})


class EmbeddedServer:
    """One server with everything that it owns."""

    def __init__(self) -> None:
        self._whiteout_directory = self._runtime = RuntimeDirectory()
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
        self._background = BackgroundLoop()
        self._identities: Identities | None = None
        self._hidden: Future[None] | None = None
        self._registry: SandboxRegistry | None = None

    @property
    def directory(self) -> str:
        """Path of the private directory."""
        return str(self._runtime.path)

    def prepare(self) -> None:
        """Find out how this machine can create sandboxes.

        Raises:
            StartError: it cannot.
        """
        self._host = find_host_files(has_own_users=True)
        self._interpreter = self._host.interpreter
        try:
            # In the thread that starts all sandboxes, because that thread ends last.
            self._bubblewrap = self._starter.submit(self._find_bubblewrap).result()
            if not self._bubblewrap.is_copy_on_write:
                self._mask()
        except BubblewrapRefusedError as error:
            raise StartError(str(error), likely_cause(str(error))) from error
        self._notes = [_SAME_ROOT] if os.geteuid() == 0 and self._identities is None else []
        self._notes += [] if self._bubblewrap.is_copy_on_write else [_READ_ONLY]
        self._notes += [] if self._bubblewrap.outer_options else [_NOT_NESTED]
        self._notes += [] if self._bubblewrap.call_filter else [_UNFILTERED]
        for note in self._notes:
            print(note, file=sys.stderr, flush=True)  # noqa: T201 - the server reports on standard error

    def open(self, listener: socket.socket, api_key: str) -> None:
        """Begin to answer requests.

        Args:
            listener: bound to a loopback port.
            api_key: required of requests.
        """
        from pytest_opensandbox.embedded.api.http import serve
        from pytest_opensandbox.embedded.runtime.sandbox_process import LaunchContext  # lazily, these are slow to load
        from pytest_opensandbox.embedded.state.sandboxes import SandboxRegistry

        context = LaunchContext(
            bubblewrap=self._bubblewrap,
            host=self._host,
            directory=self._runtime.path,
            layer=self._runtime.layer,
            identities=self._identities,
            background=self._background,
            starter=self._starter,
            hidden=self._hidden,
        )
        self._registry = SandboxRegistry(context, self._notes)
        serve(listener, self._registry, api_key)
        self._starter.submit(compile_ahead, self._interpreter, self._host.interpreter)

    def close(self) -> bool:
        """End every sandbox, remove the private directory, and say whether all of them have ended."""
        have_ended = self._registry is None or self._registry.close()
        if self._identities is not None:
            self._identities.close()
        self._runtime.remove()
        self._whiteout_directory.remove()
        return have_ended

    def _find_bubblewrap(self) -> Bubblewrap:
        """Return a bubblewrap that works; for root, one whose sandboxes have users of their own."""
        if os.geteuid() == 0:
            try:
                return self._find_for_root()
            except OSError as error:
                if error.errno in _TEMPORARY:  # this root may do it, so its sandboxes must not be root outside
                    raise StartError(error.strerror or str(error), _TRY_AGAIN) from error
        return self._find_for_user()

    def _find_for_user(self) -> Bubblewrap:
        """Return a bubblewrap whose sandboxes run as this user, and start to hide what this user can read.

        Raises:
            BubblewrapRefusedError: no bubblewrap works.
        """
        host = find_host_files()
        # Overlays refuse a layer that lies in another one.
        if is_in_library_directory(host.interpreter, self._runtime.path):
            self._whiteout_directory = RuntimeDirectory(SHARED_MEMORY)
        agent_files = expose_agent_files(host.interpreter, self._whiteout_directory.path / "whiteouts")
        self._host = replace(host, agent_files=agent_files)
        search = PrivateFileSearch(self._host.directories)
        build_layer(self._runtime.layer)
        found = find_bubblewrap(self._host, self._runtime.layer)
        # In the same thread, before it starts the first sandbox.
        self._hidden = self._starter.submit(search.hide_in, self._runtime.layer)
        return found

    def _mask(self) -> None:
        """Mount over what no overlay hides, and over sockets and pipes, because they lead to the host."""
        files, directories = PrivateFileSearch(self._host.directories, special=True).result()
        self._host = replace(
            self._host,
            hidden_files=tuple(dict.fromkeys((*self._host.hidden_files, *files))),
            hidden_directories=tuple(dict.fromkeys((*self._host.hidden_directories, *directories))),
        )
        layer = self._identities.any_layer() if self._identities else self._runtime.layer
        self._bubblewrap = self._starter.submit(with_layers, self._bubblewrap, self._host, layer).result()

    def _find_for_root(self) -> Bubblewrap:
        """Return a bubblewrap whose sandboxes have users of their own.

        Raises:
            OSError: this root lacks the rights, or the system is short of something.
            BubblewrapRefusedError: no bubblewrap works.
        """
        executables, interpreter = list(executables_here()), self._host.interpreter
        sources = [source for source, _ in interpreter.binds]
        places = [str(self._runtime.path), tempfile.gettempdir(), sys.executable, __file__]
        identities = Identities([*executables, *sources, *places])
        self._host = identities.adapt(self._host)
        programs = [identities.copy_program(executable) for executable in executables]
        identity = identities.acquire()
        self._identities = identities
        try:
            return find_bubblewrap(self._host, identity.layer, programs, identity)
        finally:
            identity.close()
            identities.release(identity.ids)
