"""``python -m pytest_opensandbox sweep``: deletes what runs that ended without their own sweep have left."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from pytest_opensandbox.config import Settings, settings_of
from pytest_opensandbox.errors import OpenSandboxError
from pytest_opensandbox.leftovers import Leftovers, OnEngine, OnServer
from pytest_opensandbox.options import DOCKER, EMBEDDED
from pytest_opensandbox.printable import escape
from pytest_opensandbox.session import LAST_RUN

LAST = "last"

_DESCRIPTION = """\
Deletes the sandboxes that test runs have left on the server: a last step of a CI job, that always runs, and a cure for
what killed runs left. Server, key and project are those of a pytest that is started in the same directory; pytest's
own options may follow, such as --opensandbox-url."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        Exit status: 0 where nothing is left, 1 where something is, or nobody answers, 4 where pytest cannot start.
    """
    options, of_pytest = _parser().parse_known_args(arguments)
    sweeper = Sweeper(run_id=options.run, dry_run=options.dry_run)
    return int(pytest.main(["-p", "opensandbox", *of_pytest], plugins=[sweeper]))


class Sweeper:
    """A plugin that has pytest read its options and its ini file, and sweeps instead of running tests.

    Args:
        run_id: the run whose sandboxes go; ``last`` for the last one in this directory, None for all dead ones.
        dry_run: only show what would go.
    """

    def __init__(self, *, run_id: str | None, dry_run: bool) -> None:
        self._run_id = run_id
        self._dry_run = dry_run

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Sweep; return the exit status."""
        run_id = self._run_id
        if run_id == LAST:
            run_id = _last_run(config)
            if not run_id:
                return _say("pytest's cache knows of no run with a sandbox in this directory")
        settings = settings_of(config)
        if settings.url == EMBEDDED:
            return _say("an embedded server takes its sandboxes along when its pytest ends: there is nothing to sweep")
        if settings.url == DOCKER and run_id is None:
            raise pytest.UsageError("where the url is docker, leases end with the run's own server: name a --run")
        try:
            with ExitStack() as stack:
                return self._sweep(_leftovers(settings, run_id, stack))
        except OpenSandboxError as exc:
            return _say(f"nothing was swept: {exc}", status=1)

    def _sweep(self, leftovers: Leftovers) -> int:
        if self._dry_run:
            found = leftovers.find()
            return _say(f"{leftovers.owner}: {len(found)} would be deleted", *found)
        report = leftovers.clear()
        counts = f"{len(report.deleted)} deleted, {len(report.left)} left"
        return _say(
            f"{leftovers.owner}: {counts}",
            *(f"deleted {name}" for name in report.deleted),
            *(f"left {name}" for name in report.left),
            *([f"stopped early: {report.error}"] if report.error else []),
            status=1 if report.left or report.error else 0,
        )


def _last_run(config: pytest.Config) -> str:
    """Return what pytest's cache says, "" for nothing; its plugin opens it for a run of tests only."""
    directory = os.path.expanduser(os.path.expandvars(config.getini("cache_dir")))
    try:
        return str(json.loads((config.rootpath / directory / "v" / LAST_RUN).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""


def _leftovers(settings: Settings, run_id: str | None, stack: ExitStack) -> Leftovers:
    """Return what the settings name; what it needs is let go of with the stack."""
    if settings.url == DOCKER:
        return OnEngine(str(run_id))
    # Lazy: only this way needs HTTP.
    from pytest_opensandbox.client import Client

    client = stack.enter_context(Client(settings.url, settings.api_key, ca_bundle=settings.ca_bundle or None))
    client.check_alive()
    return OnServer(client, run_id=run_id, project=settings.project)


def _say(*lines: str, status: int = 0) -> int:
    for number, line in enumerate(lines):
        print(escape(f"  {line}" if number else f"opensandbox: {line}"))  # noqa: T201 - a command's output
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pytest_opensandbox", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="sweep")
    sweep = commands.add_parser("sweep", help="delete what runs have left", description=_DESCRIPTION)
    which = sweep.add_mutually_exclusive_group()
    which.add_argument(
        "--run",
        metavar="ID",
        help="the sandboxes of one run, which must have ended; its id stands in the header of its output, "
        "and 'last' means the last run in this directory",
    )
    which.add_argument(
        "--expired",
        action="store_true",
        help="the sandboxes of all runs of this project whose lease is over, as no living run's ever is (the default)",
    )
    sweep.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    return parser


if __name__ == "__main__":
    sys.exit(main())
