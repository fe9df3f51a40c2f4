"""The command line of ``python -m pytest_opensandbox``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytest_opensandbox.cli.shell import add_shell
from pytest_opensandbox.cli.sweep import add_sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; what it does not know itself is for pytest.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        The command's exit status.
    """
    parser = argparse.ArgumentParser("python -m pytest_opensandbox")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_sweep(commands)
    add_shell(commands)
    options, pytest_arguments = parser.parse_known_args(arguments)
    return int(options.command(options, pytest_arguments))
