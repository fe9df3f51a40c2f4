"""The values of ini keys as they stand in the ini file: text, or in TOML also numbers, booleans, lists and tables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_TOML_FILES = ("pytest.toml", ".pytest.toml")


def read_ini(config: pytest.Config, keys: Iterable[str]) -> dict[str, object]:
    """Return what ``-o`` or the ini file has for each key; None where neither has it.

    A TOML file is read here and not by ``config.getini``, which gives each key one type: it refuses a number in one
    of pytest 9's tables where the key has text elsewhere.
    """
    overrides = dict(text.split("=", 1) for text in config.getoption("override_ini", default=None) or ())
    toml = _toml_table(config.inipath)
    return {key: overrides.get(key, config.getini(key) if toml is None else toml.get(key)) for key in keys}


def _toml_table(path: Path | None) -> Mapping[str, object] | None:
    """Return pytest's table in a TOML file; None for another file."""
    if path is None or path.suffix != ".toml":
        return None
    text = path.read_text(encoding="utf-8")
    if "opensandbox_" not in text:
        return {}
    # Python 3.10 has no TOML reader of its own; there pytest depends on one.
    reader: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    document: Mapping[str, Any] = reader.loads(text)
    of_tool: Mapping[str, Any] = document.get("tool", {}).get("pytest", {})
    own: Mapping[str, object] = document.get("pytest", {})
    return own if path.name in _TOML_FILES else of_tool.get("ini_options") or of_tool or own
