"""The tables and paths of README.md, CONTRIBUTING.md and docs/, compared with the program."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_opensandbox
from pytest_opensandbox.plugin import hookspecs
from pytest_opensandbox.provisioning.sandbox_request import SandboxRequest
from pytest_opensandbox.settings.options import OPTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs/reference.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("conftest_examples/*.md")])


def rows_under(heading: str, page: str = REFERENCE) -> list[list[str]]:
    """Return the cells of the first table below a heading of the second level, without its head."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = re.search(r"(?:^\|.*\n?)+", section, re.MULTILINE)[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_of_options_is_the_programs_own():
    documented = {tuple(row[:4]) for row in rows_under("Options")}

    assert documented == {(option.flag, option.ini, option.env, option.shown_default) for option in OPTIONS}


@pytest.mark.parametrize(
    "command", ["python -m pip install tox && tox run -e demo", "python -m pip install tox && tox"]
)
def test_the_two_commands_are_there(command):
    assert f"\n{command}\n" in README


def test_ci_runs_the_readmes_test_command_and_then_the_rest():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    thorough = re.findall(r"^\[testenv:(thorough-\w+)\]", (ROOT / "tox.ini").read_text(), re.MULTILINE)

    first = lines.index("python -m pip install --quiet tox && tox || failed=1")

    assert lines[first + 1] == f"tox run -e {','.join(thorough)} || failed=1"


def test_the_table_of_fixtures_is_the_programs_own():
    listing = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--fixtures",
            "-q",
            "-p",
            "no:cacheprovider",
            ROOT / "conftest_examples/first_test",
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    own = set(
        re.findall(r"^(\w+)(?: \[\w+ scope\])? -- \S*pytest_opensandbox/plugin/fixtures\.py", listing, re.MULTILINE)
    )

    assert {row[0] for row in rows_under("Fixtures")} == own


def test_the_table_of_marker_arguments_is_the_programs_own():
    own = {field.name for field in dataclasses.fields(SandboxRequest)} - {"snapshot"}  # of the factory only

    assert {row[0] for row in rows_under("The marker")} == own


def test_the_table_of_hooks_is_the_programs_own():
    own = {name for name in vars(hookspecs) if name.startswith("pytest_")}

    assert {row[0] for row in rows_under("Hooks")} == own


def test_the_tables_of_errors_name_all_that_can_be_imported():
    own = {name for name in pytest_opensandbox.__all__ if name.endswith(("Error", "Warning"))}

    section = REFERENCE.split("\n## Errors\n")[1]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    assert documented == own - {"OpenSandboxError", "OpenSandboxWarning"}


def test_the_operations_of_the_client_are_listed():
    section = REFERENCE.split("\n## The client\n")[1].split("\n## ")[0]

    named = set(re.findall(r"`([a-z_]+)`", section))

    assert {name for name in named if not hasattr(pytest_opensandbox.Client, name)} == set()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_contributing_says_where_at_least_25_changes_belong():
    rows = rows_under("If you want to change X, look in Y", CONTRIBUTING)

    places = [place for row in rows for place in re.findall(r"[\w/]+/[\w.]*", row[1])]

    assert len(rows) >= 25
    assert [place for place in places if not (ROOT / "pytest_opensandbox" / place).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", text)
    tests = [] if page.name == "CHANGELOG.md" else re.findall(r"`(tests/[\w./]+)`", text)

    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in tests if not (ROOT / path).exists()]

    assert missing == []


def test_architecture_names_every_package():
    packages = {
        str(path.parent.relative_to(ROOT / "pytest_opensandbox"))
        for path in (ROOT / "pytest_opensandbox").glob("**/__init__.py")
        if path.parent != ROOT / "pytest_opensandbox"
    }

    text = (ROOT / "docs/architecture.md").read_text()

    assert {name for name in packages if f"**{name}**" not in text} == set()


def test_shell_lines_are_well_formed():
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)

    assert blocks
    assert all(shlex.split(line) for block in blocks for line in block.splitlines() if line)
