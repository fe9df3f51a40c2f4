"""The command ``shell``, a terminal in a sandbox that runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.errors import ConfigError, OpenSandboxError
from pytest_opensandbox.sandbox.agent import Agent
from pytest_opensandbox.sandbox.bridge import Bridge
from pytest_opensandbox.sandbox.terminal import run_in_terminal
from pytest_opensandbox.settings.options import API_KEY_ENV
from pytest_opensandbox.settings.settings import settings_of
from pytest_opensandbox.text import escape

_DESCRIPTION = f"""\
Opens a terminal in a sandbox that runs, with a shell or another command, and ends with its exit code. The server is
that of a pytest in the same directory, or named by pytest's own options, such as --opensandbox-url; the key comes from
{API_KEY_ENV}."""
_TERMINAL_TYPE = "xterm-256color"


def add_shell(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser's commands."""
    shell = commands.add_parser("shell", help="open a terminal in a sandbox", description=_DESCRIPTION)
    shell.set_defaults(command=run_shell)
    shell.add_argument("sandbox", metavar="ID", help="id of the sandbox, as in the report of a failed test")
    shell.add_argument("--run", metavar="TEXT", help="what to run in place of a shell; text for the sandbox's shell")


def run_shell(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Open a terminal.

    Args:
        options: ``sandbox`` and ``run``.
        pytest_arguments: further arguments, which pytest reads.

    Returns:
        The exit code of the command, 128 and the number of a signal; 1 where there is no such sandbox.
    """
    return int(pytest.main(["-p", "opensandbox", *pytest_arguments], plugins=[_Shell(options.sandbox, options.run)]))


class _Shell:
    """A plugin that has pytest read its options and its ini file, and opens a terminal instead of running tests."""

    def __init__(self, sandbox_id: str, command: str | None) -> None:
        self._sandbox_id = sandbox_id
        self._command = command

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Open the terminal in place of pytest's own command; return the exit status."""
        try:
            settings = settings_of(config)
        except ConfigError as exc:
            raise pytest.UsageError(f"opensandbox: {exc}") from None
        if not settings.url.startswith(("http://", "https://")):
            raise pytest.UsageError(
                f"the server of {settings.url} belongs to the run that started it: name it by --opensandbox-url=http://..."
            )
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture(in_=True)
        try:
            with Client(settings.url, settings.api_key, ca_bundle=settings.ca_bundle or None) as client:
                agent = Agent(
                    client, client.discover_execd(self._sandbox_id), ready_timeout=settings.ready_timeout_seconds
                )
                with Bridge(client, agent) as bridge:
                    code = run_in_terminal(bridge, self._command, env={"TERM": _TERMINAL_TYPE})
        except OpenSandboxError as exc:
            print(escape(f"opensandbox: {exc}"))  # noqa: T201 - a command's output
            return 1
        return code if code >= 0 else 128 - code
