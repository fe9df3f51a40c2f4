"""Adds to every sandbox of this folder: a variable before it is made, a file once it is ready."""

import dataclasses


def pytest_opensandbox_opts(opts):
    return dataclasses.replace(opts, env={**opts.env, "CI": "1"})


def pytest_opensandbox_created(sandbox):
    sandbox.put("be kind\n", "/workspace/RULES")
