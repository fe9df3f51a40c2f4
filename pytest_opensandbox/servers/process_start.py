"""The state in which every process of ours starts, whatever the state of the process that starts it."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence

UMASK = 0o022

# Python ignores these two itself, so that writing to a closed pipe or beyond a limit is an error and not the end.
_LEFT_TO_PYTHON = frozenset(
    getattr(signal, name)
    for name in ("SIGPIPE", "SIGXFSZ", "SIGKILL", "SIGSTOP")
    if hasattr(signal, name)  # Windows has none of them
)


def main(arguments: Sequence[str]) -> None:
    """Run a module as ``python -m`` does, in the defined state.

    Args:
        arguments: name of the module and its command line.
    """
    set_start_state()
    module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def set_start_state() -> None:
    """Give each signal its default meaning, block none of them, and set the umask.

    nohup, a shell's background job and many supervisors have signals ignored, and that is inherited: a process that
    ignores SIGCHLD never learns how its children end, one that ignores SIGINT cannot be interrupted.
    """
    for number in signal.valid_signals() - _LEFT_TO_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(UMASK)


if __name__ == "__main__":
    main(sys.argv[1:])
