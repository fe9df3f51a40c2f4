"""Escaping and masking of text that pytest itself shows: the comparison of an assertion, and a test's report.

The texts in a test stay as they are; only what is shown of them changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pytest_opensandbox.text import escape, without_hidden

# The sequences by which pytest and pygments colour; they can change colours and nothing else.
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")

_ESCAPED_KEY = "opensandbox_escaped"

Explain = Callable[..., list[Any]]
"""pytest's hook ``pytest_assertrepr_compare``, called with ``config``, ``op``, ``left`` and ``right``."""


class _Shown(str):
    """An escaped text, with the repr of the original text."""

    __slots__ = ("_repr",)
    _repr: str

    def __repr__(self) -> str:
        return self._repr


def explained(explain: Explain, config: Any, op: str, left: object, right: object) -> list[str] | None:
    """Return pytest's comparison of two values with the text escaped that could steer a terminal.

    Args:
        explain: pytest's hook, which asks all plugins for an explanation.
        config: pytest's configuration.
        op: such as ``==`` or ``not in``.
        left: the first value.
        right: the second value.

    Returns:
        Lines, or None where nothing needs to be escaped, or no plugin explains the comparison.
    """
    if not (_can_steer(left) or _can_steer(right)):
        return None
    shown = [_shown(value, visible) for value in (left, right)]
    if left != right and shown[0] == shown[1]:
        # One has a control character where the other has the text of its escape.
        shown = [_shown(value, lambda text: visible(text.replace("\\", "\\\\"))) for value in (left, right)]
    return next(filter(None, explain(config=config, op=op, left=shown[0], right=shown[1])), None)


def escape_report(report: Any, *, coloured: bool) -> None:
    """Escape the traceback, the message and the reason in a report, so that they cannot steer a terminal.

    The output that the test printed itself stays as it is.

    Args:
        report: a test's report, changed in place.
        coloured: whether pytest has already coloured parts of the report.
    """
    change = _visible_but_colours if coloured else visible
    report.longrepr = with_texts(report.longrepr, change)
    if hasattr(report, "wasxfail"):
        report.wasxfail = change(report.wasxfail)
    setattr(report, _ESCAPED_KEY, True)


def escape_subtest(report: Any) -> None:
    """Escape the message of a subtest, which its report gets only after ``escape_report``."""
    context = getattr(report, "context", None)
    message = getattr(context, "msg", None)
    if getattr(report, _ESCAPED_KEY, False) and isinstance(message, str):
        object.__setattr__(context, "msg", visible(message))  # the context is frozen


def visible(text: str) -> str:
    """Return a text with each control character escaped, also the carriage return of a line end."""
    return escape(text.replace("\r\n", "\\r\n"))


def _can_steer(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, _Shown) and visible(value) != value


def _shown(value: object, change: Callable[[str], str]) -> object:
    if not isinstance(value, str):
        return value
    shown = _Shown(change(value))
    shown._repr = repr(value)
    return shown


def _visible_but_colours(text: str) -> str:
    return "".join(part if _COLOUR.fullmatch(part) else visible(part) for part in _COLOUR.split(text))


def mask_report(report: Any) -> None:
    """Replace secrets in a test's report.

    Args:
        report: the report; its captured output and its traceback are changed in place.
    """
    report.sections = with_texts(report.sections, without_hidden)
    report.longrepr = with_texts(report.longrepr, without_hidden)


def with_texts(value: Any, change: Callable[[str], str], *, seen: set[int] | None = None) -> Any:
    """Return a part of a report with each text changed; objects that hold texts are changed in place, once.

    Args:
        value: text, a list or tuple, or pytest's representation of an exception.
        change: returns the new text for a text.
        seen: ids of the objects that are changed already.
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
