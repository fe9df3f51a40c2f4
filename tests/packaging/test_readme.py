"""What the README promises is what the program has."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_opensandbox.settings.options import OPTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def rows_under(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_options_is_the_programs_own():
    documented = {tuple(row[:4]) for row in rows_under("Options")}

    assert documented == {(option.flag, option.ini, option.env, option.shown_default) for option in OPTIONS}


@pytest.mark.parametrize(
    "command", ["python -m pip install tox && tox run -e demo", "python -m pip install tox && tox"]
)
def test_the_two_commands_are_there(command):
    assert f"\n{command}\n" in README


def test_ci_runs_the_readmes_test_command():
    assert "tox" in (ROOT / ".ci/run").read_text()
    assert re.search(r"^python -m pip install --quiet tox && tox$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


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


def test_every_file_that_the_readme_names_exists():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)\)", README)

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_shell_lines_are_well_formed():
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)

    assert blocks
    assert all(shlex.split(line) for block in blocks for line in block.splitlines() if line)
