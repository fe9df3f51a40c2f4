"""The command ``sweep``, which deletes what runs have left that ended without their own sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from pytest_opensandbox.cleanup.sweeper import SweepReport
from pytest_opensandbox.cleanup.targets import EngineTarget, SandboxTarget, SnapshotTarget
from pytest_opensandbox.errors import AuthError, ConfigError, OpenSandboxError
from pytest_opensandbox.plugin.run_records import last_run, other_servers, place_of_run
from pytest_opensandbox.settings.options import API_KEY_ENV, DOCKER, EMBEDDED
from pytest_opensandbox.settings.settings import Settings, settings_of
from pytest_opensandbox.text import escape

LAST = "last"

Target = SandboxTarget | SnapshotTarget | EngineTarget

_DESCRIPTION = """\
Deletes the sandboxes that test runs have left on the server: a last step of a CI job, that always runs, and a cure for
what killed runs left. Key and project are those of a pytest that is started in the same directory, and so is the
server, unless the run is known to have had another one; pytest's own options may follow, such as --opensandbox-url."""


def add_sweep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to a parser's commands."""
    sweep = commands.add_parser("sweep", help="delete what runs have left", description=_DESCRIPTION)
    sweep.set_defaults(command=run_sweep)
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


def run_sweep(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> int:
    """Sweep the runs that the options name.

    Args:
        options: ``run`` and ``dry_run``.
        pytest_arguments: further arguments, which pytest reads.

    Returns:
        Exit status: 0 where nothing is left, 1 where something is or no server answers, 4 where pytest cannot start.
    """
    sweeper = Sweeper(run_id=options.run, dry_run=options.dry_run)
    return int(pytest.main(["-p", "opensandbox", *pytest_arguments], plugins=[sweeper]))


class Sweeper:
    """A plugin that has pytest read its options and its ini file, and sweeps instead of running tests.

    Args:
        run_id: the run to sweep; ``last`` for the last one in this directory, None for all whose lease is over.
        dry_run: only print what would be deleted.
    """

    def __init__(self, *, run_id: str | None, dry_run: bool) -> None:
        self._run_id = run_id
        self._dry_run = dry_run

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Sweep in place of pytest's own command; return the exit status."""
        run_id = self._run_id
        if run_id == "":
            raise pytest.UsageError("--run must name a run: its id stands in the header of its output")
        if run_id == LAST:
            run_id = last_run(config)
            if not run_id:
                return _print("pytest's cache knows of no run with a sandbox in this directory")
        settings = _settings(config)
        place = place_of_run(config, run_id) if run_id else None
        if place is not None:
            settings = place.applied_to(settings)
        is_known = place is not None and place.url == settings.url
        if settings.url == EMBEDDED:
            return _report_embedded(config, settings, run_id, is_known=is_known)
        if settings.url == DOCKER and run_id is None:
            raise pytest.UsageError("where the url is docker, leases end with the run's own server: name a --run")
        try:
            with ExitStack() as stack:
                targets = _targets(settings, run_id, stack)
                owner = f"run {run_id}" if run_id else f"dead runs of {settings.project}"
                not_found = _unknown_run(f"{owner}: nothing of it was found at {settings.url}")
                return self._sweep(targets, owner=owner, not_found="" if is_known or run_id is None else not_found)
        except AuthError as exc:
            known = "the one that it holds is refused" if settings.api_key else "it is not set"
            return _print(f"nothing was swept: {exc}", f"the key comes from {API_KEY_ENV} only: {known}", status=1)
        except OpenSandboxError as exc:
            return _print(f"nothing was swept: {exc}", status=1)

    def _sweep(self, targets: Sequence[Target], *, owner: str, not_found: str) -> int:
        """Sweep; return the exit status.

        Args:
            targets: what to sweep, in this order.
            owner: the runs that made it, in words.
            not_found: the error to print where there is nothing; "" where that is no error.
        """
        # A server that refuses the key says so at once; a sweep would only report that it stopped.
        found = [line for target in targets for line in target.lines()]
        if self._dry_run:
            if not_found and not found:
                return _print(not_found, status=1)
            return _print(f"{owner}: {len(found)} would be deleted", *found)
        report = sum((target.sweep() for target in targets), SweepReport())
        if not_found and report == SweepReport():
            return _print(not_found, status=1)
        counts = f"{len(report.deleted)} deleted, {len(report.left)} left"
        return _print(
            f"{owner}: {counts}",
            *(f"deleted {name}" for name in report.deleted),
            *(f"left {name}" for name in report.left),
            *([f"stopped early: {report.error}"] if report.error else []),
            status=1 if report.left or report.error else 0,
        )


def _settings(config: pytest.Config) -> Settings:
    try:
        return settings_of(config)
    except ConfigError as exc:
        raise pytest.UsageError(f"opensandbox: {exc}") from None


def _report_embedded(config: pytest.Config, settings: Settings, run_id: str | None, *, is_known: bool) -> int:
    """Print why nothing is swept on an embedded server, which has ended with its run; return the exit status."""
    if run_id is not None and not is_known:
        return _print(_unknown_run(f"run {run_id}: nothing was swept, for its server is not known"), status=1)
    servers = other_servers(config) if run_id is None and settings.sources["url"] != "flag" else []
    if servers:
        flags = " or ".join(f"--opensandbox-url={url}" for url in servers)
        return _print(
            f"nothing was swept: the url is embedded, but runs in this directory used others; add {flags}", status=1
        )
    return _print("an embedded server takes its sandboxes along when its pytest ends: there is nothing to sweep")


def _unknown_run(what: str) -> str:
    return f"{what}; this directory knows no such run there. Name its server by --opensandbox-url, see the run's header"


def _targets(settings: Settings, run_id: str | None, stack: ExitStack) -> list[Target]:
    """Return what to sweep on the server of the settings; the stack closes the connection to it."""
    if settings.url == DOCKER:
        return [EngineTarget(str(run_id), settings.docker_host)]
    # Lazy: only a server needs HTTP.
    from pytest_opensandbox.client.client import Client

    client = stack.enter_context(Client(settings.url, settings.api_key, ca_bundle=settings.ca_bundle or None))
    client.check_alive()
    # The sandboxes first: they may be using the snapshots.
    project = settings.project
    return [
        SandboxTarget(client, run_id=run_id, project=project),
        SnapshotTarget(client, run_id=run_id, project=project),
    ]


def _print(*lines: str, status: int = 0) -> int:
    for number, line in enumerate(lines):
        print(escape(f"  {line}" if number else f"opensandbox: {line}"))  # noqa: T201 - a command's output
    return status
