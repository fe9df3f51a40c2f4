"""Hooks of pytest and pytest-xdist that this plugin implements, a few lines each."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any, Protocol

import pytest

from pytest_opensandbox.errors import ConfigError, SandboxError, TransportError
from pytest_opensandbox.plugin import hookspecs
from pytest_opensandbox.plugin.fixtures import opensandbox_client, opensandbox_settings, sandbox, sandbox_factory
from pytest_opensandbox.plugin.marker import check_items, parameter_id
from pytest_opensandbox.plugin.run import RUN, Notify, Run
from pytest_opensandbox.plugin.run_records import Place
from pytest_opensandbox.plugin.server import DYING_SECONDS
from pytest_opensandbox.plugin.workers import (
    TALLY_KEY,
    USAGE_ERROR_KEY,
    Workers,
    identity,
    report_to_controller,
    shared_server,
    shared_store,
)
from pytest_opensandbox.provisioning.sandbox_request import MARKER_HELP
from pytest_opensandbox.reporting.escaping import escape_report, escape_subtest, explained, mask_report, visible
from pytest_opensandbox.reporting.failure_sections import add_sections
from pytest_opensandbox.reporting.header import header_line
from pytest_opensandbox.reporting.summary import summary_lines, warn_of_leaks, warn_of_snapshots
from pytest_opensandbox.reporting.terminal import Terminal, notify_controller
from pytest_opensandbox.reporting.tracebacks import hide_own_frames
from pytest_opensandbox.settings.options import add_options
from pytest_opensandbox.settings.settings import settings_of

__all__ = ["opensandbox_client", "opensandbox_settings", "sandbox", "sandbox_factory"]

_FIXTURES = frozenset(__all__)
_WORKERS = pytest.StashKey[Workers]()


class _Gateway(Protocol):
    id: str


class _Node(Protocol):
    """What xdist's controller knows of one worker."""

    config: pytest.Config
    gateway: _Gateway
    workerinput: dict[str, Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and read the settings; nothing is started."""
    config.addinivalue_line("markers", MARKER_HELP)
    try:
        settings = settings_of(config)
    except ConfigError as exc:
        raise pytest.UsageError(f"opensandbox: {exc}") from None
    run_id, worker_id = identity(config)
    run = config.stash[RUN] = Run(
        config,
        settings,
        run_id=run_id,
        worker_id=worker_id,
        server=shared_server(config),
        store=shared_store(config),
        notify=_notifier(config),
    )
    config.stash[_WORKERS] = Workers(run)


def pytest_report_header(config: pytest.Config) -> str:
    """Return the header line that says where sandboxes come from; no I/O."""
    run = config.stash[RUN]
    return header_line(run.settings, run.run_id)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers and parameters of the tests that will run; a worker reports errors to its controller."""
    run = config.stash[RUN]
    try:
        check_items(items, run.settings)
    except pytest.UsageError as exc:
        if not run.is_worker:
            raise
        report_to_controller(config, usage_error="\n".join(map(str, exc.args)))
        items.clear()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a sandbox that a mapping describes by what is in it."""
    return parameter_id(val, argname)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Raise a worker's usage error in the controller: xdist would show an internal error, without the text."""
    result = yield
    if session.config.stash[_WORKERS].usage_error:
        raise pytest.UsageError(session.config.stash[_WORKERS].usage_error)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Know which test is running."""
    run = item.config.stash[RUN]
    with run.test(item):
        if not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            run.renew_server()
        try:
            return (yield)
        except (pytest.exit.Exception, KeyboardInterrupt) as exc:
            # They are in no report: pytest shows them at the end of the run.
            if run.may_show_output:
                exc.args = tuple(visible(str(arg)) for arg in exc.args)
            raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Know that a test's own body is running, and call the hook for the sandboxes that it closed by itself."""
    run = item.config.stash[RUN]
    with run.part(body=True):
        result = yield
    run.release_closed()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Look whether the server still runs, and call the hook for the sandboxes that fixtures closed by themselves."""
    run = item.config.stash[RUN]
    run.check_server()
    result = yield
    run.release_closed()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Know that a fixture is being set up, even where a test's body asked for it."""
    run = request.config.stash[RUN]
    run.note_fixture(str(request.fixturename))
    with run.part(body=False):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add sections on a failed test's sandboxes, and a worker's tally for the controller."""
    if not item.config.getoption("fulltrace", default=False):
        hide_own_frames(call)
    outcome = yield
    run = item.config.stash[RUN]
    if outcome.failed:
        run.check_server(within=DYING_SECONDS if _is_of_server(call) else 0.0)
        add_sections(
            outcome,
            item,
            sandboxes=run.used_by_test(),
            test_started=run.test_started,
            server_failures=[(failure.noticed, failure.section) for failure in run.server.failures],
        )
    mask_report(outcome)
    # A fixture of earlier tests may end with one that has none.
    if run.may_show_output or (call.when == "teardown" and run.tally.used):
        terminal = item.config.pluginmanager.get_plugin("terminalreporter")
        escape_report(outcome, coloured=terminal is not None and terminal.hasmarkup)
    if run.is_worker and run.tally.used:
        setattr(outcome, TALLY_KEY, run.tally.to_wire())
    return outcome


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    """Show what a sandbox may have written so that it cannot steer the terminal."""
    run = config.stash[RUN]
    return explained(run.hook.pytest_assertrepr_compare, config, op, left, right) if run.may_show_output else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take a worker's tally from its report, so that a crash later on does not lose it; and escape late texts."""
    escape_subtest(report)
    node: _Node | None = getattr(report, "node", None)
    if node is not None:
        node.config.stash[_WORKERS].receive_tally(node.gateway.id, getattr(report, TALLY_KEY, None))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Close the sandboxes, sweep the run, and stop the server."""
    # trylast: fixtures end in pytest's own sessionfinish after Ctrl-C, and xdist stops its workers in a plain one.
    _finish(session.config)
    run, tally = session.config.stash[RUN], session.config.stash[_WORKERS].tally
    if run.is_fork:
        return
    if tally.left and not run.is_worker:
        warn_of_leaks(tally.left, sweep=_sweep_command(run), lease_seconds=run.settings.lease_seconds)
    if tally.setups.left and not run.is_worker:
        warn_of_snapshots(tally.setups.left, sweep=_sweep_command(run))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what became of the sandboxes, where there were any."""
    workers, run = config.stash[_WORKERS], config.stash[RUN]
    if run.is_fork:
        return
    lines = summary_lines(
        workers.tally,
        sweep=_sweep_command(run),
        lease_seconds=run.settings.lease_seconds,
        crashed=workers.crashed,
        unreported=workers.unreported,
        error=workers.error,
        refusal=run.server.refusal_of_workers,
    )
    if lines and terminalreporter.verbosity >= 0:
        terminalreporter.write_sep("=", "opensandbox")
    for text, markup in lines:
        terminalreporter.write_line(text, **markup)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Do what a second Ctrl-C may have kept ``pytest_sessionfinish`` from; nothing where that has run."""
    if RUN in config.stash:
        _finish(config)
        config.stash[RUN].signals.give_back()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: _Node) -> None:
    """Give a worker of xdist its run, the server and the store of setups."""
    node.config.stash[_WORKERS].configure_worker(node.gateway.id, node.workerinput)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: _Node, error: object) -> None:
    """Take a worker's last tally, or sweep what it left when it died."""
    workers = node.config.stash[_WORKERS]
    output: dict[str, Any] | None = getattr(node, "workeroutput", None)
    workers.receive_tally(node.gateway.id, (output or {}).get(TALLY_KEY))
    workers.usage_error = (output or {}).get(USAGE_ERROR_KEY) or workers.usage_error
    # xdist reports an interrupted worker with an error, too; one that sent its output has cleaned up after itself.
    workers.note_end(node.gateway.id, died=bool(error) and output is None)


def _sweep_command(run: Run) -> str:
    """Return the command that deletes what a run has left; "" where its sandboxes end with its own servers."""
    return "" if run.server.owns_server else Place.of(run.settings).sweep_command(run.run_id)


def _is_of_server(call: pytest.CallInfo[None]) -> bool:
    """Say whether a test failed in a way that the end of the server may explain."""
    return call.excinfo is not None and isinstance(call.excinfo.value, (SandboxError, TransportError))


def _notifier(config: pytest.Config) -> Notify:
    """Return what shows a line while a test runs: only the process that the user started has a terminal."""
    if hasattr(config, "workerinput"):
        return partial(notify_controller, config)
    terminal = Terminal(config.pluginmanager)
    config.pluginmanager.register(terminal, "opensandbox-terminal")
    config.add_cleanup(terminal.close)
    return terminal.notify


def _finish(config: pytest.Config) -> None:
    run = config.stash[RUN]
    if not run.is_fork:
        config.stash[_WORKERS].finish()
    run.finish()
    report_to_controller(config, tally=run.tally)
