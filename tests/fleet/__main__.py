"""Runs a fleet as a process of its own until its standard input ends: ``python -m tests.fleet '{"seed": 2}'``."""

import json
import sys

from tests.fleet.model import Model, Pool
from tests.fleet.server import running

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    pools = {name: Pool(**values) for name, values in given.pop("pools", {}).items()}
    with running(Model(**given, **({"pools": pools} if pools else {}))) as fleet:
        print(fleet.url, flush=True)
        sys.stdin.read()
