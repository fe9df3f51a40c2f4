"""Pausing and resuming of a sandbox: it stops every process, and checks that all have stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytest_opensandbox.embedded.runtime.process_tree import (
    Process,
    descendants,
    first_processes,
    knows_children,
    look_up,
)

SECONDS = 10
"""Time limit for stopping all processes."""

_PROGRAM = Path(__file__).with_name("freezer_program.py")
_FIRST = 1
_REPORT_SECONDS = 20
_BEGIN_SECONDS = 30


class Freezer:
    """Stops and continues the processes of one sandbox.

    Args:
        pid: the process that was started for it; all processes of the sandbox are below.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process = look_up(pid)
        self._stopped_before: set[tuple[int, int]] = set()

    def freeze(self) -> None:
        """Stop everything.

        Raises:
            OSError: this machine cannot do or cannot check that; then everything continues.
        """
        if not knows_children():
            raise OSError("no /proc/PID/task/TID/children in this kernel")
        firsts = self._begun()
        if len(firsts) == 1:  # no namespace around it, from where a signal to all reaches its process 1 as well
            firsts[0].signal(signal.SIGSTOP)
        try:
            report = _stop_all(firsts)
            if "error" in report:
                raise OSError(report["error"])
        except OSError:
            self.thaw()
            raise
        # Process 1 is listed where it was stopped first. It cannot have been before: it obeys no signal from inside.
        self._stopped_before = {(number, started) for number, started in report["stopped"] if number != _FIRST}

    def thaw(self) -> None:
        """Continue the processes, children first, so that no parent sees a stopped child."""
        for process in reversed(list(descendants(self._pid))):
            if process.inside not in self._stopped_before:
                process.signal(signal.SIGCONT)
        self._stopped_before = set()

    def _begun(self) -> list[Process]:
        """Return the process 1 of each namespace, once the sandbox's own has a child: then bubblewrap is done.

        Raises:
            OSError: timeout, or the sandbox has ended.
        """
        deadline = time.monotonic() + _BEGIN_SECONDS
        while time.monotonic() < deadline:
            firsts = first_processes(self._pid)
            if firsts and any(not process.is_first for process in descendants(firsts[-1].pid)):
                return firsts
            if look_up(self._pid) != self._process:
                raise OSError("it has ended")
            time.sleep(0.002)
        raise OSError("it does not start")


def _stop_all(firsts: list[Process]) -> dict[str, Any]:
    """Run the program that stops everything, in the outermost namespace of the sandbox."""
    with ExitStack() as stack:
        ends = []
        for process, name, flags in ((firsts[0], "ns/pid", 0), (firsts[-1], "root/proc", os.O_DIRECTORY)):
            ends.append(process.open(name, flags))
            stack.callback(os.close, ends[-1])
        order = dict(zip(("namespace", "processes"), ends, strict=True)) | {
            "is_inside": len(firsts) == 1,
            "seconds": SECONDS,
            "parent": os.getpid(),
        }
        return _run(json.dumps(order), ends)


def _run(order: str, descriptors: list[int]) -> dict[str, Any]:
    """Run the program with an order, and return its report."""
    with subprocess.Popen(  # noqa: S603 - our own program, the order holds nothing of the sandbox's
        [sys.executable, "-I", "-S", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=descriptors,
    ) as process:
        try:
            output, _ = process.communicate(order.encode(), timeout=SECONDS + _REPORT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    report: dict[str, Any] = json.loads(output or '{"error": "what stops it has ended"}')
    return report
