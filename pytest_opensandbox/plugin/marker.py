"""The ``sandbox`` marker and the parameter of the ``sandbox`` fixture: found on a test, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.provisioning.sandbox_request import (
    MARKER,
    MARKER_ARGUMENTS,
    ResolvedRequest,
    SandboxRequest,
    read_markers,
    read_parameter,
)
from pytest_opensandbox.settings.settings import Settings

_FIXTURE = "sandbox"
_WITHOUT_PARAMETER = ("sandbox_factory", "opensandbox_client", "opensandbox_settings")
_ID_CHARACTERS = 60
_NO_VALUE = "NotSetType"
_CHECKED = pytest.StashKey[tuple[SandboxRequest, ResolvedRequest]]()


def check_items(items: Sequence[pytest.Item], settings: Settings) -> None:
    """Check what each test asks for, before anything runs.

    Raises:
        pytest.UsageError: markers or parameters break rules; names the tests, all of them.
    """
    complaints = []
    for item in items:
        parameters = dict(_own_parameters(item))
        try:
            _check_fixtures(parameters)
            asked = _request(item, parameters)
            resolved = asked.resolve(settings, root=item.config.rootpath)
            if _FIXTURE in getattr(item, "fixturenames", ()):
                item.stash[_CHECKED] = asked, resolved
        except ConfigError as exc:
            complaints.append(f"{item.nodeid}: {exc}")
    if complaints:
        raise pytest.UsageError(*complaints)


def resolved_request(request: pytest.FixtureRequest, settings: Settings) -> ResolvedRequest:
    """Return what a test asks for by its parameter and its markers, as they are when its sandbox is set up.

    Raises:
        ConfigError: a marker or the parameter breaks a rule.
    """
    item = request.node
    asked = _request(item, {_FIXTURE: request.param} if hasattr(request, "param") else {})
    checked, resolved = item.stash.get(_CHECKED, (None, None))
    # Another fixture may have added a marker since the collection.
    return resolved if resolved and asked == checked else asked.resolve(settings, root=request.config.rootpath)


def parameter_id(value: object, argname: str) -> str | None:
    """Return how a mapping is called in the ids of tests, such as ``python:3.12,env=CI=1``; None for other values."""
    if argname != _FIXTURE or not isinstance(value, Mapping) or not set(value) <= set(MARKER_ARGUMENTS):
        return None
    named = [_short(value[name]) if name == "image" else f"{name}={_short(value[name])}" for name in value]
    text = ",".join(named) or "defaults"
    text = text if len(text) <= _ID_CHARACTERS else f"{text[: _ID_CHARACTERS - 3]}..."
    return text.encode("unicode_escape").decode("ascii")


def _request(item: pytest.Item, parameters: Mapping[str, object]) -> SandboxRequest:
    marks = [(mark.args, mark.kwargs) for mark in _marks(item)]
    if _FIXTURE in parameters:
        marks.insert(0, ((), read_parameter(parameters[_FIXTURE])))
    return read_markers(marks)


def _marks(item: pytest.Item) -> Iterator[pytest.Mark]:
    """Yield the markers of a test, nearest first: those of its ``pytest.param`` are nearer than its decorators."""
    of_param = [mark for mark in getattr(getattr(item, "callspec", None), "marks", ()) if mark.name == MARKER]
    yield from of_param
    yield from (mark for mark in item.iter_markers(MARKER) if mark not in of_param)


def _check_fixtures(parameters: Mapping[str, object]) -> None:
    for name in _WITHOUT_PARAMETER:
        if name in parameters:
            rule = f"be left out: parametrize {_FIXTURE!r}, or give the value to a call in the test"
            raise ConfigError(f"the parameter of {name!r}", rule, parameters[name])


def _own_parameters(item: pytest.Item) -> Iterator[tuple[str, object]]:
    """Yield name and value of each parameter that a fixture of this plugin will get.

    A fixture of the project may have the same name, and parameters of its own.
    """
    params: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    for name in (_FIXTURE, *_WITHOUT_PARAMETER):
        # pytest itself skips a test with no values at all, or what else `empty_parameter_set_mark` says.
        if name in params and type(params[name]).__name__ != _NO_VALUE and _is_ours(item, name):
            yield name, params[name]


def _is_ours(item: pytest.Item, name: str) -> bool:
    # pytest has no public way to ask before set-up; where this one has gone, the fixture itself refuses.
    known: Mapping[str, Sequence[Any]] = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    for fixture in reversed(known.get(name, ())):
        if fixture.func.__module__.startswith("pytest_opensandbox."):
            return True
        if name not in fixture.argnames:
            return False
    return False


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "+".join(f"{key}={one}" for key, one in value.items())
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
