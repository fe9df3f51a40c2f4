"""Options of a project in its ini file; the marker changes them for one test."""

import pytest


def test_the_ini_file_is_heard(opensandbox_settings):
    assert opensandbox_settings.command_timeout_seconds == 20
    assert opensandbox_settings.resources["memory"] == "256Mi"


@pytest.mark.sandbox(env={"GREETING": "hello"}, timeout=5)
def test_the_marker_speaks_for_one_test(sandbox):
    assert sandbox.run("echo $GREETING").stdout == "hello\n"
