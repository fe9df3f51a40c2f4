"""The process of a sandbox: its start, its pause, its output and its end."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pytest_opensandbox.embedded.runtime.agent_connections import AgentSocket
from pytest_opensandbox.embedded.runtime.bubblewrap import PATH, Bubblewrap, with_layers
from pytest_opensandbox.embedded.runtime.directories import SnapshotSource
from pytest_opensandbox.embedded.runtime.event_loop import BackgroundLoop
from pytest_opensandbox.embedded.runtime.freezer import Freezer
from pytest_opensandbox.embedded.runtime.host_files import LIBRARIES, HostFiles
from pytest_opensandbox.embedded.runtime.id_ranges import IdRange
from pytest_opensandbox.embedded.runtime.identities import Identities
from pytest_opensandbox.embedded.runtime.inherited_state import join_new_session_keyring
from pytest_opensandbox.embedded.runtime.limits import max_processes, out_of_memory_kills
from pytest_opensandbox.embedded.runtime.log import Log, OutputReader
from pytest_opensandbox.embedded.runtime.process_tree import children, look_up

END_SECONDS = 10

_START_SECONDS = 30
_KILLED = 128 + signal.SIGKILL
_BOOT = f"import sys; sys.path[:0] = [{LIBRARIES!r}]; from opensandbox_agent.__main__ import main; main()"
# The directory of libpython is for this interpreter alone: the agent's commands must not inherit it.
_BOOT_SHARED = f"""import os
path = os.environ.pop("LD_LIBRARY_PATH").partition(":")[2]
if path: os.environ["LD_LIBRARY_PATH"] = path
{_BOOT}"""


@dataclass(frozen=True)
class LaunchContext:
    """Everything that the start of a sandbox needs; one per server."""

    bubblewrap: Bubblewrap
    host: HostFiles
    directory: Path
    layer: Path
    identities: Identities | None
    background: BackgroundLoop
    # A sandbox dies with the thread that started it, so one thread starts them all and lives as long as the server.
    starter: ThreadPoolExecutor
    # Fails if the search for private files failed; None where the kernel keeps them from sandboxes.
    hidden: Future[None] | None = None


class SandboxProcess:
    """A sandbox from its start to its end.

    Attributes:
        token: the value of ``X-EXECD-ACCESS-TOKEN`` that the agent requires.
        agent: its socket.
        log: output of the agent and the entrypoint.
        exit_code: None while it runs; 128 + n after signal n.
        ids: the host's ids of its users; None where it has no users of its own.
        ran_out_of_memory: the kernel probably ended it: it was killed, not by this server, and the kernel has ended
            processes for lack of memory since it started.
        ended: set once all its processes have ended.
    """

    def __init__(self, context: LaunchContext, name: str, on_end: Callable[[], None]) -> None:
        self.token = secrets.token_hex(16)
        self.agent = AgentSocket(context.directory, name)
        self.log = Log()
        self.exit_code: int | None = None
        self.ran_out_of_memory = False
        self.ended = threading.Event()
        self._context = context
        self._on_end = on_end
        self.ids: IdRange | None = None
        self._kills_before = out_of_memory_kills()
        self._was_killed = False

    def start(
        self, entrypoint: Sequence[str], environment: Mapping[str, str], source: SnapshotSource | None = None
    ) -> None:
        """Start bubblewrap with the agent in it, which runs the entrypoint.

        Args:
            entrypoint: the program and its arguments.
            environment: of the entrypoint and of all commands.
            source: the snapshot to restore.

        Raises:
            OSError: no process could be started.
        """
        output, writing = os.pipe2(os.O_CLOEXEC)
        lifeline, self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            command, variables = self._command(entrypoint, lifeline), self._environment(environment)
            self._bwrap = self._context.starter.submit(
                self._start_bubblewrap,
                source,
                command,
                variables,
                lifeline=lifeline,
                output=writing,
            ).result()
            self._freezer = Freezer(self._bwrap.pid)
        except OSError:
            os.close(output)
            self._close_descriptors()
            raise
        finally:
            os.close(writing)
            os.close(lifeline)
            self.agent.listener.close()
        reader = OutputReader(output, self.log, self._context.background)
        reader.start()
        threading.Thread(target=self._wait, args=(reader,), name="end of a sandbox", daemon=True).start()

    def wait_started(self) -> None:
        """Wait for the agent's first response; bubblewrap has then built the whole sandbox.

        Raises:
            OSError: timeout, or the sandbox has ended.
        """
        with self.agent.connect(timeout=_START_SECONDS) as connection:
            connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
            if not connection.recv(1):
                raise ProcessLookupError(errno.ESRCH, "the sandbox has ended")

    def freeze(self) -> None:
        """Stop every process of the sandbox.

        Raises:
            OSError: this machine cannot do or cannot check that; then they continue.
        """
        self._freezer.freeze()

    def thaw(self) -> None:
        """Continue the frozen processes."""
        self._freezer.thaw()

    def open_outer_process(self) -> int:
        """Return a descriptor of the outer process's directory in ``/proc``, which no other process can take over.

        Raises:
            OSError: the sandbox has ended.
        """
        pid = next(children(self._bwrap.pid), 0)
        outer_process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Numbers of processes are reused, but not that of a child that has not been waited for.
        if pid not in children(self._bwrap.pid) or self._bwrap.returncode is not None:
            os.close(outer_process)
            raise ProcessLookupError(errno.ESRCH, "the sandbox has ended")
        return outer_process

    def kill(self) -> None:
        """Kill every process of the sandbox; ``ended`` is set once they have ended."""
        self._was_killed = True
        if self._bwrap.returncode is None:
            # Process 1 of the namespace takes all others with it, and bubblewrap ends when it has.
            for process in map(look_up, [*children(self._bwrap.pid), self._bwrap.pid][:1]):
                if process:
                    process.signal(signal.SIGKILL)

    def _start_bubblewrap(
        self,
        source: SnapshotSource | None,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        lifeline: int,
        output: int,
    ) -> subprocess.Popen[bytes]:
        """Start bubblewrap, in the thread that starts all sandboxes."""
        join_new_session_keyring()  # or sandboxes would share one, and read each other's keys
        if self._context.hidden:
            self._context.hidden.result()
        context, fds = self._context, (self.agent.listener.fileno(), lifeline)
        if context.identities is None:
            bubblewrap = _bubblewrap_for(context, context.layer, source.layers if source else ())
            return bubblewrap.start(command, environment=environment, fds=fds, output=output)
        identity = context.identities.acquire(source.ids if source else None)
        self.ids = identity.ids
        try:
            os.fchown(output, identity.ids.first, identity.ids.first)  # or processes in the sandbox could not reopen it
            layers = [context.identities.bind(str(layer)) for layer in source.layers] if source else []
            bubblewrap = _bubblewrap_for(context, identity.layer, layers)
            return bubblewrap.start(command, environment=environment, fds=fds, output=output, identity=identity)
        except OSError:
            self._release_ids()
            raise
        finally:
            identity.close()

    def _release_ids(self) -> None:
        if self.ids and self._context.identities:
            self._context.identities.release(self.ids)

    def _command(self, entrypoint: Sequence[str], lifeline: int) -> list[str]:
        """Return the command line of the agent; it is visible on the host."""
        python = self._context.host.interpreter
        boot = _BOOT_SHARED if python.library_path else _BOOT
        fds = ("--listen-fd", str(self.agent.listener.fileno()), "--lifeline-fd", str(lifeline))
        bound = ("--processes", str(limit)) if (limit := max_processes()) else ()
        return [python.executable, "-I", "-S", "-c", boot, *fds, *bound, "--", *entrypoint]

    def _environment(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the agent, which passes on all but its token."""
        language = {} if any(name == "LANG" or name.startswith("LC_") for name in wanted) else {"LANG": "C.UTF-8"}
        environment = {"PATH": PATH, "HOME": "/root", **language, **wanted, "EXECD_ACCESS_TOKEN": self.token}
        if shared := self._context.host.interpreter.library_path:
            environment["LD_LIBRARY_PATH"] = f"{shared}:{environment.get('LD_LIBRARY_PATH', '')}"
        return environment

    def _wait(self, output: OutputReader) -> None:
        """Wait for the end, in a thread, because older kernels have no descriptor for it."""
        self._bwrap.wait()
        self._context.background.call(self._finish, output)

    def _finish(self, output: OutputReader) -> None:
        """Record the end and release everything, in the background loop."""
        output.close()
        self._close_descriptors()
        self._release_ids()
        status = self._bwrap.returncode
        code = status if status >= 0 else 128 - status
        if code == _KILLED and not self._was_killed and out_of_memory_kills() > self._kills_before:
            self.ran_out_of_memory = True
            self.log.note("the kernel ended this sandbox, because memory ran out")
        self.exit_code = code
        self._on_end()
        self.ended.set()

    def _close_descriptors(self) -> None:
        os.close(self._lifeline)
        self.agent.close()


def _bubblewrap_for(context: LaunchContext, layer: Path, restored: Sequence[Path]) -> Bubblewrap:
    """Return the bubblewrap for one sandbox, with the layers of a snapshot if there are any."""
    if not restored and context.identities is None and context.bubblewrap.is_copy_on_write:
        return context.bubblewrap
    if not restored:  # files that are hidden by mounts may have been removed in the meantime
        return with_layers(context.bubblewrap, context.host, layer)
    from pytest_opensandbox.embedded.runtime.snapshot_files import (
        with_restored_files,  # lazily, as most runs have no snapshots
    )

    return with_restored_files(context.bubblewrap, context.host, layer, restored)
