"""File name patterns of a search: ``*``, ``?``, ``[a-z]``, ``{a,b}``, ``**/`` and ``!(…)``, against base names."""

from __future__ import annotations

import re
from collections.abc import Callable

_CLASS = re.compile(r"\[([!^]?)((?:\\.|[^\]\\])+)\]", re.DOTALL)


class BadPatternError(ValueError):
    """A pattern with an unclosed bracket or brace, or a lone ``!``."""


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test for base names.

    A base name has no slash, so ``a/*.txt`` matches nothing and ``**/*.txt`` is the same as ``*.txt``.

    Args:
        pattern: what ExecD's search takes.

    Returns:
        A function from a base name to whether it matches; it raises BadPatternError for a bad pattern, so that an
        empty directory can be searched for anything.
    """
    try:
        expression = re.compile(_translated(pattern), re.DOTALL)
    except BadPatternError as exc:
        return _raiser(exc)
    return lambda name: expression.fullmatch(name) is not None


def _raiser(error: BadPatternError) -> Callable[[str], bool]:
    def test(_: str) -> bool:
        raise error

    return test


def _translated(pattern: str) -> str:
    """Return the regular expression for a pattern."""
    done: list[str] = []
    position = 0
    while position < len(pattern):
        if pattern[position] == "!":
            return _negated("".join(done), pattern, position)
        piece, position = _piece(pattern, position)
        done.append(piece)
    return "".join(done)


def _piece(pattern: str, position: int) -> tuple[str, int]:
    """Return the expression for the next element of a pattern, and where the one after it begins."""
    character = pattern[position]
    if character == "*":
        end = position + len(pattern[position:]) - len(pattern[position:].lstrip("*"))
        if end - position == 2 and pattern[end : end + 1] == "/" and pattern[position - 1 : position] in ("", "/"):
            return "(?:[^/]*/)*", end + 1
        return "[^/]*", end
    if character == "?":
        return "[^/]", position + 1
    if character == "[":
        return _character_class(pattern, position)
    if character == "{":
        return _alternatives(pattern, position)
    if character == "}":
        raise BadPatternError(pattern)
    if character == "\\":
        position += 1
        if position >= len(pattern):
            raise BadPatternError(pattern)
    return re.escape(pattern[position]), position + 1


def _character_class(pattern: str, position: int) -> tuple[str, int]:
    match = _CLASS.match(pattern, position)
    if match is None:
        raise BadPatternError(pattern)
    inside = re.sub(r"([\[&~|^])", r"\\\1", match[2])
    return f"[{'^' if match[1] else ''}{inside}]", match.end()


def _alternatives(pattern: str, position: int) -> tuple[str, int]:
    """Translate ``{a,b}``, which may be nested."""
    choices, start, depth = [], position + 1, 0
    end = position
    while end < len(pattern):
        character = pattern[end]
        if character == "\\":
            end += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        if (character == "," and depth == 1) or (character == "}" and depth == 0):
            choices.append(_translated(pattern[start:end]))
            start = end + 1
        end += 1
        if depth == 0:
            return f"(?:{'|'.join(choices)})", end
    raise BadPatternError(pattern)


def _negated(before: str, pattern: str, position: int) -> str:
    """Translate ``!(…)``: what begins like ``before`` but does not match the pattern without the ``!()``."""
    if pattern[position + 1 : position + 2] != "(":
        raise BadPatternError(pattern)
    depth = 0
    for end in range(position + 1, len(pattern)):
        depth += {"(": 1, ")": -1}.get(pattern[end], 0)
        if depth == 0:
            rest = _translated(pattern[position + 2 : end] + pattern[end + 1 :])
            return rf"(?!{before}{rest}\Z){before}.+"
    raise BadPatternError(pattern)
