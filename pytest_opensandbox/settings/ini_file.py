"""The values of our ini keys as somebody wrote them: text, or in TOML also a number, a boolean, a list or a table."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

_TOML_FILES = ("pytest.toml", ".pytest.toml")


def read_inis(config: pytest.Config, keys: Iterable[str]) -> dict[str, object]:
    """Return what the ini file, or ``-o``, has for each key; None where it has nothing.

    pytest's own types take one form each: text where a table of pytest 9 has a number is refused, and a list where
    there should be text is kept. So a TOML file is read once more, as it stands.
    """
    written = _written(config.inipath)
    return {key: _value(config, key, written.get(key)) for key in keys}


def _value(config: pytest.Config, key: str, written: object) -> object:
    try:
        with warnings.catch_warnings():
            # That a list is no text is known, and meant.
            warnings.simplefilter("ignore")
            found: object = config.getini(key)
    except (TypeError, pytest.UsageError):
        if written is None:
            raise
        return written
    # What pytest has made into text is the same value; other text comes from -o, which wins.
    is_of_command_line = isinstance(found, str) and found != str(written)
    return found if written is None or is_of_command_line else written


def _written(path: Path | None) -> Mapping[str, object]:
    """Return pytest's table in a TOML file; empty for another file."""
    if path is None or path.suffix != ".toml":
        return {}
    text = path.read_text(encoding="utf-8")
    if "opensandbox_" not in text:
        return {}
    # Python 3.10 has no reader of its own; there pytest brings one along.
    reader: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    document: Mapping[str, Any] = reader.loads(text)
    of_tool: Mapping[str, Any] = document.get("tool", {}).get("pytest", {})
    own: Mapping[str, object] = document.get("pytest", {})
    return own if path.name in _TOML_FILES else of_tool.get("ini_options") or of_tool or own
