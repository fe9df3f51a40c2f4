"""The runner is built the same way everywhere, and an sdist needs no compiler."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("program-x86_64", "program-aarch64")


def build(source, kind, target, **how):
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", target, source]
    subprocess.run(command, check=True, capture_output=True, **how)
    return next(target.glob("*"))


@pytest.fixture
def unpacked(tmp_path):
    """The sdist of this checkout, unpacked."""
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "sources", filter="data")
    return next((tmp_path / "sources").iterdir())


def test_an_sdist_holds_sources_and_programs_and_builds_nothing(unpacked, tmp_path):
    runner = unpacked / "pytest_opensandbox" / "runner"
    before = {name: (runner / name).stat().st_mtime_ns for name in PROGRAMS}

    build(unpacked, "wheel", tmp_path / "wheel")

    assert (runner / "main.zig").exists()
    assert {name: (runner / name).stat().st_mtime_ns for name in PROGRAMS} == before


@pytest.mark.thorough
def test_the_same_sources_give_the_same_bytes_anywhere(unpacked, tmp_path):
    pytest.importorskip("ziglang", reason="the compiler is installed for thorough tests only")
    elsewhere = Path(shutil.copytree(unpacked, tmp_path / "another place"))
    for name in (*PROGRAMS, "sources.sha256"):
        (elsewhere / "pytest_opensandbox" / "runner" / name).unlink()

    build(elsewhere, "wheel", tmp_path / "wheel")

    for name in PROGRAMS:
        built = (root / "pytest_opensandbox" / "runner" / name for root in (unpacked, elsewhere))
        assert len({path.read_bytes() for path in built}) == 1


def test_lint_and_build_use_the_same_compiler():
    pinned = [line for line in (ROOT / "hatch_build.py").read_text().splitlines() if line.startswith("COMPILER")]

    assert pinned[0].split('"')[1] in (ROOT / "tox.ini").read_text()
