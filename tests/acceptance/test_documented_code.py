"""The code blocks of the documentation: those of README.md run unchanged, all others are valid Python."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
BLOCKS = [
    pytest.param(page.name, block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
INSTALLER = """#!/bin/sh
mkdir -p /etc/myapp
echo "installed 12 files" | tee /var/log/installer.log
"""


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_code_block_of_a_page_works(pytester, page, block):
    compile(block, page, "exec")
    if page != "README.md":
        return
    pytester.makepyfile(block)
    pytester.mkdir("dist")
    installer = pytester.path / "dist/installer"
    installer.write_text(INSTALLER)
    installer.chmod(0o755)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)
