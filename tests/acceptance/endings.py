"""The ways in which a run of pytest can end, each as a suite of two tests that hold a sandbox at that time."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import Any

from tests.figures import Table

ONE_PROCESS, TWO_WORKERS = "without xdist", "-n 2"
LEASE_SECONDS = 60
"""The shortest lease that the plugin allows."""

SUITE = """\
import os, signal, sys, threading, time
from pathlib import Path
import pytest

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
PYTEST = os.getppid() if IS_WORKER else os.getpid()


def wait_for(name):
    end = time.monotonic() + 20
    while not Path(name).exists() and time.monotonic() < end:
        time.sleep(0.01)


def meet():
    Path("it").touch()
    if IS_WORKER:
        wait_for("other")


def signal_pytest(number):
    os.kill(PYTEST, number)
    time.sleep(60)


def signal_all(number):
    os.killpg(0, number)
    time.sleep(60)


{fixtures}


@pytest.fixture
def later({uses}):
    {setup}
    yield
    {teardown}


{marks}
def test_it({uses}, later):
    {body}


def test_other({other}):
    Path("other").touch()
    {elsewhere}
"""

_PROOF = "Path('proof').touch()"
UNTIL_MET, UNTIL_SIGNALLED = "wait_for('it')", "IS_WORKER and time.sleep(60)"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """One way to end: the code of the first test and its fixtures; the second test runs beside it, or after it."""

    setup: str = "meet()"
    """Code of a fixture that uses the sandbox, before its yield."""
    body: str = "pass"
    """Code of the test."""
    teardown: str = "pass"
    """Code of the fixture after its yield."""
    elsewhere: str = UNTIL_MET
    """Code of the second test."""
    uses: str = "sandbox"
    """Fixtures of the first test."""
    other: str = "sandbox"
    """Fixtures of the second test."""
    fixtures: str = ""
    """Definitions of more fixtures."""
    marks: str = ""
    """Decorators of the first test."""
    conftest: str = ""
    """Content of the conftest.py."""
    arguments: tuple[str, ...] = ()
    """Arguments of pytest."""
    has_proof: bool = False
    """Whether the test creates a file ``proof`` if it succeeds."""
    ways: tuple[str, ...] = (ONE_PROCESS, TWO_WORKERS)
    """The ways to run pytest in which this ending is tested."""
    fatal: tuple[str, ...] = ()
    """The ways in which no code of the plugin can run afterwards, so that the lease must end the sandboxes."""
    is_of_own_server: bool = False
    """Whether it is tested only in a run whose processes have embedded servers of their own."""
    late: tuple[str, ...] = ()
    """The ways in which the workers outlive pytest, and clean up when they notice that it is gone."""

    @property
    def suite(self) -> str:
        """Content of the test file."""
        parts = {name: _indented(getattr(self, name)) for name in ("setup", "body", "teardown", "elsewhere")}
        fixtures = textwrap.dedent(self.fixtures)
        return SUITE.format(uses=self.uses, other=self.other, fixtures=fixtures, marks=self.marks, **parts)


def _indented(code: str) -> str:
    return textwrap.indent(textwrap.dedent(code).strip(), "    ").strip()


def _by_signal(body: str = "pass", **more: Any) -> Ending:
    return Ending(body=body, elsewhere=UNTIL_SIGNALLED, **more)


def _with_dead_server() -> Ending:
    """The embedded server of the first test's process is killed; the test goes on, the second has a new server."""
    return Ending(
        body=f"""
            for task in Path("/proc/self/task").iterdir():
                for child in (task / "children").read_text().split():
                    if b"pytest_opensandbox.embedded" in Path(f"/proc/{{child}}/cmdline").read_bytes():
                        os.kill(int(child), signal.SIGKILL)
                        {_PROOF}
        """,
        has_proof=True,
        is_of_own_server=True,
    )


def _in_time(limit: str, **more: Any) -> Ending:
    return Ending(marks=f"@pytest.mark.timeout({limit})", arguments=("-p", "pytest_timeout"), **more)


def _in_fork(child: str, until: str) -> Ending:
    """A child process of the test ends; the test goes on, and still owns its sandbox."""
    return Ending(
        uses="outer, sandbox",
        fixtures="""
            @pytest.fixture
            def outer():
                yield
                Path(f"down-{os.getpid()}").touch()
        """,
        body=f"""
            child = os.fork()
            if child == 0:
                {child}
            {until}
            assert sandbox.run("true").ok
            {_PROOF}
        """,
        has_proof=True,
    )


def _with_create(what: str, **more: Any) -> Ending:
    """The first create fails."""
    conftest = f"""
        import os, signal, threading, time
        from pytest_opensandbox import Client
        from pytest_opensandbox.errors import TransportError

        create = Client.create_sandbox
        asked = []

        def create_badly(self, opts):
            asked.append(opts)
            if len(asked) > 1 or os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
                return create(self, opts)
            {what}
            raise TransportError("cut", method="POST", url="http://test")

        Client.create_sandbox = create_badly
    """
    return Ending(conftest=conftest, **more)


_WITH_XDIST = {"ways": (TWO_WORKERS,)}
# A forked worker of xdist never ends: it lacks the thread that talks to the controller.
_TORN_DOWN = "wait_for(f'down-{child}'); IS_WORKER or os.waitpid(child, 0)"
_LATE = "threading.Timer(0.3, create, (self, opts)).start()"
_KINDS = Ending(
    uses="sandbox, paused, restored, prepared, session_long",
    other="sandbox, session_long",
    fixtures="""
        @pytest.fixture
        def paused(sandbox_factory):
            sandbox = sandbox_factory()
            sandbox.pause()
            return sandbox

        @pytest.fixture
        def restored(sandbox_factory, sandbox):
            return sandbox_factory(snapshot=sandbox.snapshot())

        @pytest.fixture
        def prepared(sandbox_factory):
            return [sandbox_factory(setup="echo ready > /tmp/ready") for _ in range(2)]

        @pytest.fixture(scope="session")
        def session_long(sandbox_factory):
            return sandbox_factory()
    """,
)

ENDINGS = {
    "passes": Ending(body=_PROOF, has_proof=True),
    "fails": Ending(body="assert False"),
    "fails, with -x": Ending(body="assert False", arguments=("-x",)),
    "error in a later fixture's set-up": Ending(setup="meet(); assert False"),
    "error in another fixture's teardown": Ending(teardown="assert False"),
    "error in a hook, when the sandbox is made": Ending(
        conftest="def pytest_opensandbox_created(sandbox): raise RuntimeError", elsewhere="pass"
    ),
    "error in a hook, when the sandbox is closed": Ending(
        conftest="def pytest_opensandbox_closed(sandbox): sandbox.run('true')"
    ),
    "the sandbox is not ready in time": Ending(arguments=("--opensandbox-ready-timeout=0.001",), elsewhere="pass"),
    "the test closes its sandbox": Ending(body=f"sandbox.close(); {_PROOF}", has_proof=True),
    "pytest.exit": Ending(body="pytest.exit('enough')"),
    "error in another plugin": Ending(
        conftest="""
            def pytest_runtest_logreport(report):
                assert report.when != "call", "a fault in a plugin"
        """
    ),
    "Ctrl-C in set-up": _by_signal(setup="meet(); signal_all(signal.SIGINT)"),
    "Ctrl-C in the test": _by_signal("signal_all(signal.SIGINT)"),
    "Ctrl-C in a teardown": _by_signal(teardown="signal_all(signal.SIGINT)"),
    "Ctrl-C, and again in the teardown": _by_signal("signal_all(signal.SIGINT)", teardown="signal_all(signal.SIGINT)"),
    "SIGINT to pytest alone": _by_signal("signal_pytest(signal.SIGINT)", **_WITH_XDIST),
    "SIGTERM to all": _by_signal("signal_all(signal.SIGTERM)"),
    "SIGTERM to pytest alone": _by_signal("signal_pytest(signal.SIGTERM)", **_WITH_XDIST),
    "SIGHUP to all": _by_signal("signal_all(signal.SIGHUP)"),
    "SIGHUP to pytest alone": _by_signal("signal_pytest(signal.SIGHUP)", **_WITH_XDIST),
    "SIGQUIT to all": _by_signal("signal_all(signal.SIGQUIT)"),
    "SIGQUIT to pytest alone": _by_signal("signal_pytest(signal.SIGQUIT)", **_WITH_XDIST),
    "pytest-timeout by signal, in set-up": _in_time("0.5, method='signal'", setup="time.sleep(60)", elsewhere="pass"),
    "pytest-timeout by signal, in the test": _in_time("0.3, method='signal', func_only=True", body="time.sleep(60)"),
    "pytest-timeout by thread": _in_time(
        "0.3, method='thread', func_only=True", body="time.sleep(60)", fatal=(ONE_PROCESS,)
    ),
    "os._exit in the test": Ending(body="os._exit(1)", fatal=(ONE_PROCESS,)),
    "SIGKILL to the worker": Ending(body="os.kill(os.getpid(), signal.SIGKILL)", **_WITH_XDIST),
    "SIGKILL to pytest": _by_signal("signal_pytest(signal.SIGKILL)", fatal=(ONE_PROCESS,), late=(TWO_WORKERS,)),
    "SIGKILL to pytest and its workers": _by_signal("signal_all(signal.SIGKILL)", fatal=(TWO_WORKERS,), **_WITH_XDIST),
    "SIGKILL to the embedded server": _with_dead_server(),
    "a fork returns from the test": _in_fork("return", _TORN_DOWN),
    "a fork calls sys.exit": replace(_in_fork("sys.exit(0)", _TORN_DOWN), ways=(ONE_PROCESS,)),
    "a fork calls os._exit": _in_fork("os._exit(0)", "os.waitpid(child, 0)"),
    "the answer to a create is lost": _with_create("create(self, opts)", body=_PROOF, has_proof=True),
    "a create goes on when its answer is lost": _with_create(_LATE),
    "Ctrl-C while a create goes on": _with_create(
        f"{_LATE}; os.killpg(0, signal.SIGINT); time.sleep(60)", elsewhere=UNTIL_SIGNALLED
    ),
    "Ctrl-C soon after a create was begun": _with_create(
        "threading.Timer(0.05, os.killpg, (0, signal.SIGINT)).start(); return create(self, opts)",
        body="time.sleep(60)",
        elsewhere=UNTIL_SIGNALLED,
    ),
    "sandboxes of every kind, passes": replace(_KINDS, body=_PROOF, has_proof=True),
    "sandboxes of every kind, Ctrl-C": replace(_KINDS, body="signal_all(signal.SIGINT)", elsewhere=UNTIL_SIGNALLED),
    "sandboxes of every kind, SIGTERM to all": replace(
        _KINDS, body="signal_all(signal.SIGTERM)", elsewhere=UNTIL_SIGNALLED
    ),
    "sandboxes of every kind, os._exit": replace(_KINDS, body="os._exit(1)", fatal=(ONE_PROCESS,)),
}

BACKENDS = ("embedded", "docker")
TABLE = Table(
    "leaks",
    "how the run ends",
    tuple(ENDINGS),
    tuple(f"{backend}, {way}" for backend in BACKENDS for way in (ONE_PROCESS, TWO_WORKERS)),
)
