"""Makes tox skip the environment that needs a Docker engine, and say why, where none can be had."""

from __future__ import annotations

import sys
from pathlib import Path

from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.errors import Skip

# tox does not put the checkout on the path.
sys.path.insert(0, str(Path(__file__).parent))

from tests.server.engine import why_none


@impl
def tox_on_install(tox_env: ToxEnv, arguments: object, section: str, of_type: str) -> None:
    """Skip before anything is installed."""
    _skip(tox_env)


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    """Skip an environment that was installed before."""
    _skip(tox_env)


def _skip(tox_env: ToxEnv) -> None:
    why = why_none() if tox_env.conf.name == "server" else ""
    if why:
        raise Skip(why)
