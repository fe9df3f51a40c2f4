"""Every example folder passes when it is copied, as a user would copy it."""

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "conftest_examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))


@pytest.mark.thorough
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_an_example_passes_and_leaves_nothing(pytester, folder):
    shutil.copytree(folder, pytester.path, dirs_exist_ok=True)

    result = pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*opensandbox: embedded*"])


# The egress guard of a sandbox's network needs an image that not every engine has.
NO_GUARD = ("-k", "not reaches_no_network")


@pytest.mark.thorough
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_an_example_passes_on_any_server(pytester, server, folder):
    shutil.copytree(folder, pytester.path, dirs_exist_ok=True)

    result = pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider", *NO_GUARD)

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"*opensandbox: {server.url} (OPEN_SANDBOX_DOMAIN)*"])
    assert server.sandboxes() == []


def test_every_example_is_in_the_list():
    listed = {
        line.split("|")[1].strip() for line in (EXAMPLES / "README.md").read_text().splitlines() if line[:2] == "| "
    }

    assert {folder.name for folder in FOLDERS} == listed - {"folder"}
