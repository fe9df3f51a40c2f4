"""Escaping, shortening and masking of text that is shown."""

from __future__ import annotations

import os
from collections.abc import Iterable

TAIL_CHARACTERS = 2_000
"""Longest end of a text that an error shows."""

SHORTEST_SECRET = 6
"""Shorter values are not masked, because they occur in any text; characters."""

_BRIEF_CHARACTERS = 500
# The spaces of all scripts, and the joiners of letters and of the parts of an emoji.
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_UNESCAPED = frozenset(f"\n\t{_SPACES}\u200c\u200d")
_CACHED_CHARACTERS = 8192


# A global, because the HTTP library's log records are filtered outside of any pytest session.
_hidden: set[str] = set()
_hidden_in_errors: set[str] = set()


class _EscapedCharacters(dict[int, str]):
    """The escaped form of each character, cached: that makes a long text twenty times as fast."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        shown = char if char.isprintable() or char in _UNESCAPED else char.encode("unicode_escape").decode()
        if len(self) < _CACHED_CHARACTERS:
            self[code] = shown
        return shown


_ESCAPED = _EscapedCharacters()


class Printable:
    """A base of exceptions whose text is escaped and holds no secret; it must be the first base."""

    def __str__(self) -> str:
        return escape(_without_secrets(super().__str__()))

    def __repr__(self) -> str:
        return _without_secrets(super().__repr__())


class MaskedText(str):
    """Text with a repr that masks it, because ``pytest -l`` prints the variables of every frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    @property
    def can_be_sent(self) -> bool:
        """Whether it can be the value of an HTTP header: printable ASCII without white space around it."""
        return self.isascii() and self.isprintable() and self.strip() == self


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return the text with these secrets masked."""
    # The longest comes first, because one secret may be part of another.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def hide(secret: str, *, everywhere: bool = True) -> None:
    """Mask a secret from now on, in this process.

    Args:
        secret: text to show as ``***``.
        everywhere: mask it in ``without_hidden``, too, not only in the errors of this package.
    """
    (_hidden if everywhere else _hidden_in_errors).add(str(secret))


def without_hidden(text: str) -> str:
    """Return the text of another library with the secrets masked that were given to ``hide``."""
    return redacted(text, _hidden) if _hidden else text


def _without_secrets(text: str) -> str:
    return redacted(text, _hidden | _hidden_in_errors)


def escape(text: str) -> str:
    r"""Return the text with characters escaped, such as ``\x1b``, that control a terminal or break XML.

    Line breaks, tabs, spaces and joiners stay; control and other format characters (the bidirectional ones among
    them), surrogates and unassigned code points are escaped.
    """
    return text.replace("\r\n", "\n").translate(_ESCAPED)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as ``1 byte`` and ``2,000 bytes``.

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for any other number; "" where an s is added.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def os_reason(error: OSError, place: str = "") -> str:
    """Return the reason of a system error, and the file.

    Args:
        error: the error.
        place: the file, for an error that does not name it.
    """
    file = error.filename or place
    return f"{error.strerror or error}{f': {os.fsdecode(file)}' if isinstance(file, (str, bytes)) and file else ''}"


def brief(value: object) -> str:
    """Return the repr of a value; a long one without its middle."""
    text = repr(value)
    if len(text) <= _BRIEF_CHARACTERS:
        return text
    half = _BRIEF_CHARACTERS // 2
    return f"{text[:half]}…[{counted(len(text) - 2 * half, 'character')}]…{text[-half:]}"


def tail(text: str) -> str:
    """Return the last part of a text."""
    return text if len(text) <= TAIL_CHARACTERS else f"…{text[-TAIL_CHARACTERS:]}"


def section(title: str, text: str) -> str:
    """Return the last part of ``text`` under a title, or nothing for an empty text."""
    if not text:
        return ""
    cut = len(text) - TAIL_CHARACTERS
    tail = text if cut <= 0 else f"[{counted(cut, 'character')} before this]\n{text[-TAIL_CHARACTERS:]}"
    return f"\n--- {title} ---\n{tail.rstrip()}"
