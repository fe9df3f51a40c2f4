"""Hooks that add a variable to every sandbox before it is created, and a file when it is ready."""

import dataclasses

import pytest


# Optional, so that `pytest -p no:opensandbox` still runs the other tests of the project.
@pytest.hookimpl(optionalhook=True)
def pytest_opensandbox_opts(opts):
    return dataclasses.replace(opts, env={**opts.env, "CI": "1"})


@pytest.hookimpl(optionalhook=True)
def pytest_opensandbox_created(sandbox):
    sandbox.put("be kind\n", "/workspace/RULES")
