"""docs/scaling-out.md shows the numbers of the model and the rows of the benchmark."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    """The script that writes the page's tables."""
    spec = importlib.util.spec_from_file_location("scaling_out", ROOT / "benchmarks/scaling_out.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling_out"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(benchmark):
    """What it has written into the page."""
    return benchmark.DOCS.read_text().split(benchmark.BEGIN)[1].split(benchmark.END)[0]


def test_the_model_on_the_page_is_the_model(benchmark, written):
    assert "\n".join(benchmark.parameters()) in written


def test_the_rows_on_the_page_are_those_of_the_benchmark(benchmark, written):
    rows = [line.strip("|").split(" | ") for line in written.splitlines() if line.count("|") == 12][2:]

    assert [(row[0].strip(), int(row[1])) for row in rows] == [(one.name, one.workers) for one in benchmark.SCENARIOS]


def test_no_row_leaves_a_sandbox(written):
    rows = [line.strip("| ").split(" | ") for line in written.splitlines() if line.count("|") == 12][2:]

    assert {row[-1] for row in rows} == {"0"}


def test_a_small_run_of_the_benchmark_gives_a_row(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["scaling_out.py", "--tests", "8", "--time-factor", "0.02", "--only", "pool of 128,"]
    )

    benchmark.main()

    row = capsys.readouterr().out.splitlines()[2].strip("| ").split(" | ")
    assert row[0] == "pool of 128, buffer 4 to 8"
    assert row[-2:] == ["0", "0"]
