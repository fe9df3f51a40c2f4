"""Data goes one way: a room imports only rooms of a lower level, and each library has one room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pytest_opensandbox"

LEVELS = {
    room: level
    for level, rooms in enumerate(
        [
            (
                "deadlines",
                "framing",
                "json_limits",
                "printable",
            ),
            ("wire",),
            (
                "errors",
                "ini_values",
                "masking",
                "parsing",
                "progress",
                "process_start",
                "server_failures",
                "signals",
                "streams",
                "tally",
                "temporary_directories",
                "trouble",
            ),
            (
                "addresses",
                "answers",
                "archive_checks",
                "docker_process",
                "docker_server",
                "events",
                "hookspecs",
                "http_session",
                "keys",
                "managed",
                "models",
                "options",
                "opts",
                "refusals",
                "results",
                "setup_errors",
                "shelf",
                "waits",
            ),
            ("command_checks", "server_clock"),
            (
                "broom",
                "commands",
                "config",
                "directories",
                "docker_engine",
                "downloads",
                "endpoints",
                "escaping",
                "history",
                "ownership",
                "pauses",
                "preparation",
                "readiness",
                "refused_images",
                "selections",
                "tar_headers",
                "transfer_scripts",
                "transport",
                "uploads",
            ),
            (
                "docker_guard",
                "execd",
                "files",
                "health",
                "invocations",
                "listings",
                "local_files",
                "local_trees",
                "members",
                "places",
                "recipe",
            ),
            (
                "marker",
                "sandboxes",
                "snapshots",
                "unpacking",
            ),
            ("archives", "client"),
            ("lease", "lost_creates"),
            (
                "capture",
                "endings",
                "lifecycle",
                "transfer",
                "whereabouts",
            ),
            (
                "agent",
                "connection",
                "handle",
                "keeping",
                "sweep",
            ),
            ("leftovers", "sandbox"),
            ("prepared", "running"),
            ("session",),
            ("factory",),
            (
                "fixtures",
                "report",
                "workers",
            ),
            ("terminal",),
            ("__main__", "plugin"),
        ]
    )
    for room in rooms
}
KNOWS_PYTEST = {
    "__main__",
    "terminal",
    "options",
    "config",
    "hookspecs",
    "ini_values",
    "marker",
    "places",
    "running",
    "session",
    "workers",
    "report",
    "fixtures",
    "plugin",
}
ONE_ROOM = {
    "docker": {"docker_engine", "docker_process"},
    "requests": {"http_session", "transport", "trouble"},
    "urllib3": {"trouble", "wire"},
    "tenacity": {"waits"},
    "subprocess": {"managed"},
}

EMBEDDED = sorted((PACKAGE / "embedded").rglob("*.py"))
ROOMS = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and path not in EMBEDDED)


def name_of(path: Path) -> str:
    """Return a module's dotted name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Yield the full names of what a file imports; those for the type checker only where asked."""
    tree = ast.parse(path.read_text())
    unseen = {node for branch in ast.walk(tree) if at_run_time and _is_for_types(branch) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_rooms(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, by their dotted names below the package."""
    own = (name.split(".")[1:] for name in imports(path) if name.startswith("pytest_opensandbox."))
    return {_module(parts) for parts in own}


def _module(parts: list[str]) -> str:
    """Return the longest beginning of a dotted name that is a module or a package."""
    found = [n for n in range(1, len(parts) + 1) if _is_module(PACKAGE.joinpath(*parts[:n]))]
    return ".".join(parts[: found[-1]]) if found else "__init__"


def _is_module(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_every_room_has_a_level():
    assert {name_of(path) for path in ROOMS} == set(LEVELS)


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_room_imports_only_lower_rooms(path):
    higher = {room for room in own_rooms(path) if LEVELS.get(room, 99) >= LEVELS[name_of(path)]}

    assert higher == set()


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_pytest_stops_at_the_door(path):
    assert "pytest" not in libraries(path) or name_of(path) in KNOWS_PYTEST


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_library_has_one_room(path):
    strangers = {
        library for library, rooms in ONE_ROOM.items() if library in libraries(path) and name_of(path) not in rooms
    }

    assert strangers == set()


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_no_private_part_of_pytest_is_used(path):
    assert "_pytest" not in libraries(path)


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_the_environment_is_read_in_config_only(path):
    text = path.read_text()

    assert name_of(path) in {"config", "managed"} or not any(word in text for word in ("os.environ", "os.getenv"))


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_the_client_side_never_imports_the_embedded_server(path):
    assert not any(room.partition(".")[0] == "embedded" for room in own_rooms(path))


@pytest.mark.parametrize("path", EMBEDDED, ids=name_of)
def test_the_embedded_server_never_imports_the_client_side(path):
    assert {room.partition(".")[0] for room in own_rooms(path)} <= {"embedded"}


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_nobody_waits_by_sleeping(path):
    assert "time.sleep(" not in path.read_text()


@pytest.mark.parametrize("path", [*ROOMS, *EMBEDDED], ids=name_of)
def test_a_room_stays_a_room(path):
    assert len(path.read_text().splitlines()) <= 300
