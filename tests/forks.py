"""A child of this very process, as tests of users make them by ``os.fork`` and ``multiprocessing``."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
"""From Python 3.12 on a fork of a process with threads is warned of; it is what these tests are about."""


def in_a_fork(does: Callable[[], object]) -> bool:
    """Do something in a child, wait for its end, and say whether it went well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            does()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
