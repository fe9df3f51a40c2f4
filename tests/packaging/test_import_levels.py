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

ROOMS = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
EMBEDDED = sorted((PACKAGE / "embedded").rglob("*.py"))


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
            yield f"{node.module}"


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("pytest_opensandbox.")}


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_every_room_has_a_level():
    assert {path.stem for path in ROOMS} == set(LEVELS)


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_a_room_imports_only_lower_rooms(path):
    higher = {room for room in own_rooms(path) if LEVELS.get(room, 99) >= LEVELS[path.stem]}

    assert higher == set()


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_pytest_stops_at_the_door(path):
    assert "pytest" not in libraries(path) or path.stem in KNOWS_PYTEST


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_a_library_has_one_room(path):
    strangers = {
        library for library, rooms in ONE_ROOM.items() if library in libraries(path) and path.stem not in rooms
    }

    assert strangers == set()


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_no_private_part_of_pytest_is_used(path):
    assert "_pytest" not in libraries(path)


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_the_environment_is_read_in_config_only(path):
    text = path.read_text()

    assert path.stem in {"config", "managed"} or not any(word in text for word in ("os.environ", "os.getenv"))


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_the_client_side_never_imports_the_embedded_server(path):
    assert "embedded" not in own_rooms(path)


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_embedded_server_never_imports_the_client_side(path):
    assert own_rooms(path) <= {"embedded"}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_nobody_waits_by_sleeping(path):
    assert "time.sleep(" not in path.read_text()


@pytest.mark.parametrize("path", [*ROOMS, *EMBEDDED], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_stays_a_room(path):
    assert len(path.read_text().splitlines()) <= 300
