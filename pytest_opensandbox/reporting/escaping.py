"""Escapes what a sandbox wrote where pytest itself shows it: in the comparison of an assertion, and in a report.

The texts that a test holds stay as they are; only what is shown of them changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pytest_opensandbox.text import escape, without_hidden

# What pytest and pygments colour with; it can change colours and nothing else.
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")

_ESCAPED_KEY = "opensandbox_escaped"

Explain = Callable[..., list[Any]]
"""pytest's hook ``pytest_assertrepr_compare``, called with ``config``, ``op``, ``left`` and ``right``."""


class _Shown(str):
    """A text as it is shown, with the repr of the text that it stands for."""

    __slots__ = ("_repr",)
    _repr: str

    def __repr__(self) -> str:
        return self._repr


def explained(explain: Explain, config: Any, op: str, left: object, right: object) -> list[str] | None:
    """Return how pytest compares two values of which one could steer a terminal, as it would with that escaped.

    Args:
        explain: asks all plugins how they would show a comparison.
        config: pytest's configuration.
        op: such as ``==`` or ``not in``.
        left: the first value.
        right: the second value.

    Returns:
        Lines, or None where nothing needs to be escaped, or no plugin has anything to say.
    """
    if not (_can_steer(left) or _can_steer(right)):
        return None
    shown = [_shown(value, visible) for value in (left, right)]
    if left != right and shown[0] == shown[1]:
        # One of them has an escape where the other one has the text of that escape.
        shown = [_shown(value, lambda text: visible(text.replace("\\", "\\\\"))) for value in (left, right)]
    return next(filter(None, explain(config=config, op=op, left=shown[0], right=shown[1])), None)


def escape_report(report: Any, *, coloured: bool) -> None:
    """Escape what could steer a terminal in the traceback, the message and the reason that a report shows.

    What a test has printed itself is shown as it was printed.

    Args:
        report: a test's report, changed in place.
        coloured: whether pytest has coloured parts of it already.
    """
    change = _visible_but_colours if coloured else visible
    report.longrepr = with_texts(report.longrepr, change)
    if hasattr(report, "wasxfail"):
        report.wasxfail = change(report.wasxfail)
    setattr(report, _ESCAPED_KEY, True)


def escape_subtest(report: Any) -> None:
    """Escape the message of a subtest, which its report gets after ``escape_report`` has changed what it is made of."""
    context = getattr(report, "context", None)
    message = getattr(context, "msg", None)
    if getattr(report, _ESCAPED_KEY, False) and isinstance(message, str):
        object.__setattr__(context, "msg", visible(message))  # it is frozen


def visible(text: str) -> str:
    """Return a text with each control character escaped, also one that belongs to the end of a line."""
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
