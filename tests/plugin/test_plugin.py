"""The plugin as pytest sees it: its hooks, its marker, its state."""

import pytest

from pytest_opensandbox import plugin
from pytest_opensandbox.plugin import hookspecs
from pytest_opensandbox.plugin.run import RUN


def test_pytest_found_the_plugin(pytestconfig):
    assert pytestconfig.pluginmanager.get_plugins() & {plugin}
    assert pytestconfig.stash[RUN].run_id


@pytest.mark.parametrize("name", [name for name in vars(plugin) if name.startswith("pytest_") and name.count("_") > 1])
def test_every_hook_of_the_plugin_says_what_it_does(name):
    hook = getattr(plugin, name)

    assert callable(hook)
    assert hook.__doc__


@pytest.mark.parametrize("name", [name for name in vars(hookspecs) if name.startswith("pytest_")])
def test_every_hook_for_others_is_declared_and_explained(pytestconfig, name):
    assert getattr(pytestconfig.hook, name).spec is not None
    assert "Args:" in getattr(hookspecs, name).__doc__


def test_the_marker_is_registered(pytestconfig):
    assert any(line.startswith("sandbox(*, image=None") for line in pytestconfig.getini("markers"))


def test_the_state_of_a_run_lies_in_the_stash_only(pytestconfig):
    assert not [name for name in vars(pytestconfig) if "sandbox" in name]
