"""Private words and metaphors stay out of the code, the tests and the pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("pytest_opensandbox", "tests", "conftest_examples", "benchmarks", "docs", "newsfragments")
SUFFIXES = {".py", ".md", ".zig"}
FILES = sorted(
    path
    for path in [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.suffix in SUFFIXES and path.name != Path(__file__).name
)
WORDS = (
    "room rooms house shelf broom whereabouts keeping trouble recipe recipes judge judged wish workshop clip clips"
    " doubt doubts strike strikes hear hears hand_up hand_down tell tells told story lend lends lent why_gone box boxes"
    " world worlds nobody somebody whoever neighbour neighbours fence fences net nets door doors surroundings weather"
)
# The field's own uses: the user "nobody", a namespace or a file of /proc named "net", tell() of a file, permissions.
FIELD_USES = re.compile(
    r'\bNOBODY\b|"nobody"|--unshare-net\b|--net\b|/(proc|class)/net\b|\btell\(|/dev/net\b|\bworld-readable\b'
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_no_private_words(path):
    text = FIELD_USES.sub("", path.read_text())

    found = {word.lower() for word in re.findall(r"\w+", text)} & set(WORDS.split())

    assert found == set()
