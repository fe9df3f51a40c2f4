"""Two things that tox.ini cannot say: why an environment is skipped, and what a plain ``tox`` leaves out."""

from __future__ import annotations

import atexit
import sys
from pathlib import Path

from tox.config.sets import ConfigSet
from tox.plugin import impl
from tox.session.state import State
from tox.tox_env.api import ToxEnv
from tox.tox_env.errors import Skip

# tox does not put the checkout on the path.
sys.path.insert(0, str(Path(__file__).parent))

from tests.server.engine import missing_requirement

_LEFT_OUT = """
tox leaves out what takes longer. `tox run -e thorough-tests,thorough-fuzz,thorough-docker,thorough-oldest` runs it:
  thorough-tests   the complete leak matrix, the seeded faults, and other tests marked `thorough`
  thorough-fuzz    the embedded server and its agent, on generated requests
  thorough-docker  the real opensandbox-server on a Docker engine
  thorough-oldest  the tests with the oldest libraries that pyproject.toml allows"""


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    """Have a run of the default environments end with what it leaves out."""
    env = getattr(state.conf.options, "env", None)
    if getattr(env, "is_default_list", False) and state.conf.options.command in ("legacy", "run", "run-parallel"):
        atexit.register(print, _LEFT_OUT)


@impl
def tox_on_install(tox_env: ToxEnv, arguments: object, section: str, of_type: str) -> None:
    """Skip before anything is installed."""
    _skip(tox_env)


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    """Skip an environment that was installed before."""
    _skip(tox_env)


def _skip(tox_env: ToxEnv) -> None:
    why = missing_requirement() if tox_env.conf.name == "thorough-docker" else ""
    if why:
        raise Skip(why)
