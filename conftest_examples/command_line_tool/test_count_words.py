"""A command-line tool: the test copies it into the sandbox, runs it there, and fetches its report."""

from pathlib import Path

import pytest

TOOL = Path(__file__).with_name("count_words.py")


@pytest.mark.parametrize(
    ("text", "report"),
    [
        pytest.param("a b a", "3 words, 2 different\n", id="repeated"),
        pytest.param("", "0 words, 0 different\n", id="empty"),
    ],
)
def test_the_report_counts_words(sandbox, text, report):
    sandbox.put(TOOL, "/workspace/count_words.py")
    sandbox.put(text, "/workspace/in.txt")

    sandbox.run(["python3", "/workspace/count_words.py", "/workspace/in.txt", "/workspace/out.txt"], check=True)

    assert sandbox.get("/workspace/out.txt").decode() == report


def test_a_tree_of_files_comes_back(sandbox, tmp_path):
    sandbox.run("mkdir -p /workspace/site/css && echo x >/workspace/site/css/main.css", check=True)

    sandbox.get("/workspace/site", tmp_path / "site")

    assert (tmp_path / "site/css/main.css").read_text() == "x\n"
