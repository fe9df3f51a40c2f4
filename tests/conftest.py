"""Fixtures of several test folders: a sandbox or a server of this run's backend, and a clean environment for pytest."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from importlib.metadata import entry_points

import pytest

from pytest_opensandbox import Sandbox
from pytest_opensandbox.servers.server_process import ServerProcess, start_docker, start_embedded
from pytest_opensandbox.settings.options import EMBEDDED, OPTIONS
from pytest_opensandbox.settings.settings import Settings

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """Let processes that tests start handle signals as in a terminal, even under nohup or in a background job.

    Ignored signals are inherited by child processes, handlers are not. In this process these signals still do nothing.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Give ``-n auto`` three workers for two processors: tests wait for other processes two fifths of their time."""
    return max(2, len(os.sched_getaffinity(0)) * 3 // 2)


@pytest.fixture(scope="module")
def shared_sandbox(sandbox_factory) -> Iterator[Sandbox]:
    """A sandbox for all tests of a module; each test leaves it unchanged."""
    with sandbox_factory() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def running_server(opensandbox_settings: Settings) -> Iterator[ServerProcess]:
    """A server of this run's backend, for tests that send requests to it themselves."""
    start = start_embedded
    if opensandbox_settings.url != EMBEDDED:
        start = partial(start_docker, label="made-by=tests", execd_image=opensandbox_settings.execd_image)
    with start() as server:
        yield server


@pytest.fixture
def clean_environment(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the outer run's settings, and load no plugins but this and xdist: the others take a second to import."""
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(_chosen_plugins()))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("OPEN_SANDBOX_API_KEY", "OPEN_SANDBOX_PROTOCOL", *(option.env for option in OPTIONS)):
        monkeypatch.delenv(name, raising=False)


def _chosen_plugins() -> list[str]:
    names = {point.name for point in entry_points(group="pytest11")}
    mine = [] if "opensandbox" in names else ["-p pytest_opensandbox.plugin"]
    return mine + [f"-p no:{name}" for name in sorted(names) if not name.startswith(("opensandbox", "xdist"))]
