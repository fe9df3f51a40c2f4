"""The program that starts every server process with default signals and umask."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence

UMASK = 0o022

# Python itself ignores the first two, so that writing to a closed pipe or beyond a limit raises an error.
_UNCHANGED_SIGNALS = frozenset(
    getattr(signal, name)
    for name in ("SIGPIPE", "SIGXFSZ", "SIGKILL", "SIGSTOP")
    if hasattr(signal, name)  # Windows has none of them
)


def main(arguments: Sequence[str]) -> None:
    """Run a module as ``python -m`` does, with default signals and umask.

    Args:
        arguments: name of the module and its command line.
    """
    set_start_state()
    module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def set_start_state() -> None:
    """Give each signal its default meaning, block none of them, and set the umask.

    nohup, a shell's background jobs and many supervisors ignore signals, and child processes inherit that: a process
    that ignores SIGCHLD never learns how its children end, and one that ignores SIGINT cannot be interrupted.
    """
    for number in signal.valid_signals() - _UNCHANGED_SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(UMASK)


if __name__ == "__main__":
    main(sys.argv[1:])
