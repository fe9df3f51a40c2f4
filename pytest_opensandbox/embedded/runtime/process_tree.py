"""The descendants of a process, from /proc, and signals that cannot reach a process that reuses a number."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process; its number may be reused after its end.

    Attributes:
        pid: its number in this namespace.
        started: its start, in the kernel's ticks.
        numbers: its numbers in all its namespaces, this one first.
    """

    pid: int
    started: int
    numbers: tuple[int, ...]

    @property
    def is_first(self) -> bool:
        """Whether it is process 1 of its own namespace."""
        return self.numbers[-1] == 1

    @property
    def inside(self) -> tuple[int, int]:
        """Its number in its own namespace, and when it started."""
        return self.numbers[-1], self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(OSError), self._handle() as handle:
            if look_up(self.pid) == self:
                if handle is None:
                    os.kill(self.pid, number)
                else:
                    signal.pidfd_send_signal(handle, number)

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file of this process in ``/proc``, and never that of a process that reuses its number.

        Args:
            name: relative to the process's directory.
            flags: besides those for reading.

        Raises:
            OSError: the process has ended, or there is no such file.
        """
        directory = os.open(f"/proc/{self.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The directory stays with the process that had the number when it was opened.
            if look_up(self.pid) != self:
                raise ProcessLookupError(errno.ESRCH, "it has ended")
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=directory)
        finally:
            os.close(directory)

    @contextmanager
    def _handle(self) -> Iterator[int | None]:
        """Open a descriptor of the process that has the number now; None where the kernel has none."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            yield None
            return
        try:
            yield handle
        finally:
            os.close(handle)


def knows_children() -> bool:
    """Say whether this kernel lists the children of a process."""
    return os.path.exists(f"/proc/self/task/{threading.get_native_id()}/children")


def look_up(pid: int) -> Process | None:
    """Return the process with this number, None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [str(pid)])
    return Process(pid, int(fields[19]), tuple(map(int, numbers)))


def children(pid: int) -> Iterator[int]:
    """Yield the numbers of a process's children; complete where none of them runs."""
    try:
        for task in os.scandir(f"/proc/{pid}/task"):
            yield from map(int, Path(task.path, "children").read_text().split())
    except OSError:
        return  # it has ended; its children have ended too, or belong to process 1 now


def descendants(pid: int) -> Iterator[Process]:
    """Yield every process below this one, parents before their children; complete where none of them runs."""
    generation = list(children(pid))
    while generation:
        yield from filter(None, map(look_up, generation))
        generation = [child for parent in generation for child in children(parent)]


def first_processes(pid: int) -> list[Process]:
    """Return the process 1 of each namespace below a process, from the outside in."""
    found: list[Process] = []
    for process in descendants(pid):
        if process.is_first:
            found.append(process)
        elif found and len(process.numbers) == len(found[-1].numbers):
            break
    return found
