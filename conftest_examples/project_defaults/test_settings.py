"""Options of a project in its ini file, which the marker overrides for one test."""

import pytest


def test_the_ini_file_sets_the_options(opensandbox_settings):
    assert opensandbox_settings.command_timeout_seconds == 20
    assert opensandbox_settings.resources["memory"] == "256Mi"


@pytest.mark.sandbox(env={"GREETING": "hello"}, timeout=5)
def test_the_marker_changes_one_test(sandbox):
    assert sandbox.run("echo $GREETING").stdout == "hello\n"
