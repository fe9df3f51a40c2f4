"""Masks the secrets of endpoints in pytest's reports: a test's own HTTP library may name the address that failed."""

from __future__ import annotations

from typing import Any

from pytest_opensandbox.printable import without_hidden


def mask_report(report: Any) -> None:
    """Replace secrets in what pytest shows and writes of a test.

    Args:
        report: a test's report; its captured output, and the lines of its traceback, are changed in place.
    """
    report.sections = _masked(report.sections, set())
    report.longrepr = _masked(report.longrepr, set())


def _masked(value: Any, seen: set[int]) -> Any:
    """Return a value without secrets in its texts; objects that hold texts are changed in place, each once."""
    if isinstance(value, str):
        return without_hidden(value)
    if type(value) in (list, tuple):
        return type(value)([_masked(item, seen) for item in value])
    if type(value).__module__.startswith("_pytest.") and hasattr(value, "__dict__") and id(value) not in seen:
        seen.add(id(value))
        for name, held in vars(value).items():
            setattr(value, name, _masked(held, seen))
    return value
