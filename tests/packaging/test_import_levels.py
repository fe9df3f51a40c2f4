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
                "transport.deadlines",
                "transport.framing",
                "transport.json_limits",
                "printable",
            ),
            ("transport.wire",),
            (
                "errors",
                "settings.ini_values",
                "masking",
                "settings.parsing",
                "sandbox.progress",
                "servers.process_start",
                "plugin.server_failures",
                "plugin.signals",
                "client.streams",
                "sandbox.tally",
                "temporary_directories",
                "transport.trouble",
            ),
            (
                "transport.addresses",
                "transport.answers",
                "sandbox.archive_checks",
                "servers.docker_process",
                "servers.docker_server",
                "client.events",
                "plugin.hookspecs",
                "transport.http_session",
                "transport.keys",
                "servers.managed",
                "client.models",
                "settings.options",
                "client.opts",
                "transport.refusals",
                "client.results",
                "setup_errors",
                "provisioning.shelf",
                "transport.waits",
            ),
            ("client.command_checks", "transport.server_clock"),
            (
                "cleanup.broom",
                "client.commands",
                "settings.config",
                "sandbox.directories",
                "servers.docker_engine",
                "client.downloads",
                "transport.endpoints",
                "reporting.escaping",
                "sandbox.history",
                "sandbox.ownership",
                "client.pauses",
                "provisioning.preparation",
                "client.readiness",
                "provisioning.refused_images",
                "client.selections",
                "sandbox.tar_headers",
                "sandbox.transfer_scripts",
                "transport.transport",
                "client.uploads",
            ),
            (
                "servers.docker_guard",
                "client.execd",
                "client.files",
                "transport.health",
                "sandbox.invocations",
                "client.listings",
                "sandbox.local_files",
                "sandbox.local_trees",
                "sandbox.members",
                "plugin.places",
                "provisioning.recipe",
            ),
            (
                "plugin.marker",
                "client.sandboxes",
                "client.snapshots",
                "sandbox.unpacking",
            ),
            ("sandbox.archives", "client.client"),
            ("sandbox.lease", "sandbox.lost_creates"),
            (
                "sandbox.capture",
                "sandbox.endings",
                "sandbox.lifecycle",
                "sandbox.transfer",
                "sandbox.whereabouts",
            ),
            (
                "sandbox.agent",
                "plugin.connection",
                "sandbox.handle",
                "cleanup.keeping",
                "cleanup.sweep",
            ),
            ("cleanup.leftovers", "sandbox.sandbox"),
            ("provisioning.prepared", "plugin.running"),
            ("plugin.session",),
            ("plugin.factory",),
            (
                "plugin.fixtures",
                "reporting.report",
                "plugin.workers",
            ),
            ("reporting.terminal",),
            ("__main__", "plugin.hooks"),
        ]
    )
    for room in rooms
}
KNOWS_PYTEST = {
    "__main__",
    "reporting.terminal",
    "settings.options",
    "settings.config",
    "plugin.hookspecs",
    "settings.ini_values",
    "plugin.marker",
    "plugin.places",
    "plugin.running",
    "plugin.session",
    "plugin.workers",
    "reporting.report",
    "plugin.fixtures",
    "plugin.hooks",
}
READS_ENVIRONMENT = {"settings.config", "servers.managed"}
ONE_ROOM = {
    "docker": {"servers.docker_engine", "servers.docker_process"},
    "requests": {"transport.http_session", "transport.transport", "transport.trouble"},
    "urllib3": {"transport.trouble", "transport.wire"},
    "tenacity": {"transport.waits"},
    "subprocess": {"servers.managed"},
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

    assert name_of(path) in {"settings.config", "servers.managed"} or not any(
        word in text for word in ("os.environ", "os.getenv")
    )


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
