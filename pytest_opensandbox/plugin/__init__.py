"""The pytest side: hooks, fixtures, the marker, xdist's workers and signals.

What pytest prints about sandboxes belongs in ``reporting``.
"""

from pytest_opensandbox.plugin.fixtures import opensandbox_client, opensandbox_settings, sandbox, sandbox_factory
from pytest_opensandbox.plugin.hooks import (
    pytest_addhooks,
    pytest_addoption,
    pytest_assertrepr_compare,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_configure_node,
    pytest_fixture_setup,
    pytest_make_parametrize_id,
    pytest_report_header,
    pytest_runtest_call,
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
    pytest_runtestloop,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_unconfigure,
)

__all__ = [
    "opensandbox_client",
    "opensandbox_settings",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_assertrepr_compare",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_fixture_setup",
    "pytest_make_parametrize_id",
    "pytest_report_header",
    "pytest_runtest_call",
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_runtest_teardown",
    "pytest_runtestloop",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
    "sandbox",
    "sandbox_factory",
]
