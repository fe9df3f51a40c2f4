"""The public names are those that are promised, and nothing is loaded before it is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_opensandbox
from pytest_opensandbox import errors
from pytest_opensandbox.plugin import fixtures

PROMISED_OPERATIONS = (
    "create_sandbox get_sandbox list_sandboxes delete_sandbox wait_ready get_endpoint discover_execd ping run_command"
    " upload_files download_file search_files renew pause resume create_snapshot get_snapshot list_snapshots"
    " delete_snapshot patch_metadata diagnostics"
).split()
PROMISED_TYPES = (
    "SandboxOpts SandboxResponse Endpoint FileUpload FileInfo CommandResult NetworkPolicy EgressRule Snapshot"
    " Sandbox Client EXECD_PORT"
).split()


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", PROMISED_OPERATIONS)
def test_the_client_has_every_promised_operation(name):
    assert callable(getattr(pytest_opensandbox.Client, name))


@pytest.mark.parametrize("name", PROMISED_TYPES)
def test_a_promised_name_is_exported(name):
    assert name in pytest_opensandbox.__all__


@pytest.mark.parametrize("name", pytest_opensandbox.__all__)
def test_an_exported_name_exists(name):
    assert getattr(pytest_opensandbox, name) is not None


def test_every_error_and_warning_is_exported():
    own = {
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, Warning | Exception)
    }

    assert own <= set(pytest_opensandbox.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(pytest_opensandbox.__file__).read_text())

    seen = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_opensandbox.")
        for alias in node.names
    }

    assert seen == set(pytest_opensandbox.__all__)


def test_the_types_of_the_fixtures_can_be_named():
    tree = ast.parse(Path(fixtures.__file__).read_text())
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]

    types = {re.sub(r"Iterator\[(\w+)\]", r"\1", ast.unparse(node.returns)) for node in public}

    assert types == {"Client", "Sandbox", "SandboxFactory", "Settings"}
    assert types <= set(pytest_opensandbox.__all__)


def test_a_misspelt_name_is_an_error_to_a_type_checker(tmp_path):
    """With a ``__getattr__`` that it can see, every name is one of the package, and each of them is Any."""
    (tmp_path / "suite.py").write_text(
        "from pytest_opensandbox import Sandbox, SandboxFactory, Settings\n"
        "from pytest_opensandbox import Sandpit\n"
        "import pytest_opensandbox\n"
        "pytest_opensandbox.Clinet\n"
        "def test_it(sandbox: Sandbox, sandbox_factory: SandboxFactory, opensandbox_settings: Settings) -> None:\n"
        "    reveal_type(sandbox_factory(image='a'))\n"
        "    reveal_type(opensandbox_settings.lease_seconds)\n"
    )

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}", "suite.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    lines = checked.stdout.splitlines()
    assert 'has no attribute "Sandpit"' in lines[0]
    assert 'has no attribute "Clinet"' in lines[1]
    assert 'Revealed type is "pytest_opensandbox.sandbox.sandbox.Sandbox"' in lines[2]
    assert 'Revealed type is "int"' in lines[3] or 'Revealed type is "builtins.int"' in lines[3]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Sandpit'"):
        _ = pytest_opensandbox.Sandpit


def test_the_plugin_loads_no_library_before_a_test_needs_it():
    heavy = (
        "requests",
        "tenacity",
        "urllib3",
        "pytest_opensandbox.client.client",
        "pytest_opensandbox.sandbox.sandbox",
    )

    loaded = run_python(
        f"import sys, pytest_opensandbox.plugin.hooks; print([name for name in {heavy!r} if name in sys.modules])"
    )

    assert loaded == "[]"


def test_the_client_is_usable_without_pytest():
    loaded = run_python("import sys; from pytest_opensandbox import Client, Sandbox; print('pytest' in sys.modules)")

    assert loaded == "False"


def test_an_error_survives_pickling():
    # xdist and concurrent.futures carry exceptions between processes.
    import pickle

    error = errors.CommandError("false", exit_code=1, stdout="out", stderr="err", sandbox_id="x")

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.exit_code, copy.sandbox_id) == (str(error), 1, "x")
