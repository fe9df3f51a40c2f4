"""The engine has nothing of the tests at their end: the last suite that `backends.py` runs."""

import json
import os
from pathlib import Path

import pytest

from tests.embedded.machine import wait_until
from tests.server.inventory import inventory

BEFORE = "OPENSANDBOX_TEST_BEFORE"


@pytest.mark.skipif(BEFORE not in os.environ, reason="only backends.py lists what was on the engine before")
def test_the_engine_has_no_more_than_before_the_tests(client):
    before = set(json.loads(Path(os.environ[BEFORE]).read_text()))

    # An engine takes a moment to delete; no lease ends so soon.
    wait_until(lambda: before.issuperset(inventory(client)), seconds=30)

    assert sorted(set(inventory(client)) - before) == []
