"""Masks the secrets of endpoints in pytest's reports: a test's own HTTP library may name the address that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_opensandbox.printable import without_hidden


def mask_report(report: Any) -> None:
    """Replace secrets in what pytest shows and writes of a test.

    Args:
        report: a test's report; its captured output, and the lines of its traceback, are changed in place.
    """
    report.sections = with_texts(report.sections, without_hidden)
    report.longrepr = with_texts(report.longrepr, without_hidden)


def with_texts(value: Any, change: Callable[[str], str], *, seen: set[int] | None = None) -> Any:
    """Return a part of a report with each of its texts changed; objects that hold texts are changed in place, once.

    Args:
        value: text, a list or tuple, or what pytest has made of an exception.
        change: returns what is to stand for a text.
        seen: ids of the objects that were changed already.
    """
    seen = set() if seen is None else seen
    if isinstance(value, str):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)([with_texts(item, change, seen=seen) for item in value])
    if type(value).__module__.startswith("_pytest.") and hasattr(value, "__dict__") and id(value) not in seen:
        seen.add(id(value))
        for name, held in vars(value).items():
            setattr(value, name, with_texts(held, change, seen=seen))
    return value
