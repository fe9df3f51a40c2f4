"""What is built is complete, and holds nothing else."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DYNAMIC, INTERPRETER = 2, 3


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built without a network: its build backend is a test dependency."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(target.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {re.sub(r"-[\d.]+\.dist-info", ".dist-info", top) for top in tops} == {
        "pytest_opensandbox",
        "pytest_opensandbox.dist-info",
    }


def test_every_module_is_in_the_wheel(wheel):
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "pytest_opensandbox").rglob("*.py")}

    assert sources | {"pytest_opensandbox/py.typed"} <= set(wheel.namelist())


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 0x3E), ("aarch64", 0xB7)])
def test_the_wheel_holds_a_small_static_runner_for_each_machine(wheel, machine, number):
    program = wheel.read(f"pytest_opensandbox/runner/program-{machine}")

    assert (program[:4], int.from_bytes(program[18:20], "little")) == (b"\x7fELF", number)
    assert segment_types(program).isdisjoint({DYNAMIC, INTERPRETER})
    assert len(program) < 64 * 1024


def test_the_wheel_has_no_sources_of_the_runner_and_fits_every_machine(wheel):
    assert not [name for name in wheel.namelist() if name.endswith(".zig")]
    assert Path(wheel.filename).name.endswith("-py3-none-any.whl")


def segment_types(program):
    """Return the types of an ELF file's segments: 56 bytes each, from the offset in its head on."""
    offset, count = int.from_bytes(program[32:40], "little"), int.from_bytes(program[56:58], "little")
    return {int.from_bytes(program[offset + 56 * i :][:4], "little") for i in range(count)}


def test_pytest_finds_the_plugin_by_its_entry_point(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert "[pytest11]\nopensandbox = pytest_opensandbox.plugin" in wheel.read(name).decode()


def test_the_core_needs_four_or_five_libraries(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?![^\n]*extra ==)", wheel.read(name).decode(), re.MULTILINE)

    assert {"pluggy", "pytest", "requests", "tenacity"} <= set(needed)
    assert len(needed) <= 6
