"""At the end of all runs the engine has nothing of ours: the last thing that `worlds.py` runs."""

import json
import os
from pathlib import Path

import pytest

from tests.embedded.machine import wait_until
from tests.server.inventory import inventory

BEFORE = "OPENSANDBOX_TEST_BEFORE"


@pytest.mark.skipif(BEFORE not in os.environ, reason="worlds.py knows what was on the engine before")
def test_the_engine_has_nothing_of_ours_that_it_had_not_before(client):
    before = set(json.loads(Path(os.environ[BEFORE]).read_text()))

    # An engine takes a moment to let go of what was deleted; no lease ends so soon.
    wait_until(lambda: before.issuperset(inventory(client)), seconds=30)

    assert sorted(set(inventory(client)) - before) == []
