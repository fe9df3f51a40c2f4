"""Text made fit to be shown: it may come out of a sandbox, and terminals obey some of it; or it may be secret."""

from __future__ import annotations

import os
from collections.abc import Iterable

TAIL_CHARACTERS = 2_000
"""Most that an error shows of a longer text, its end."""

SHORTEST_SECRET = 6
"""What is shorter is no secret, and would be found in any text; characters."""

_BRIEF_CHARACTERS = 500
# Besides printable characters: the spaces of all scripts, and what joins letters and the parts of an emoji.
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_SHOWN_AS_THEY_ARE = frozenset(f"\n\t{_SPACES}\u200c\u200d")
_REMEMBERED_CHARACTERS = 8192


# Not in the stash of a pytest session: log records of the HTTP library know of none, and the client needs no pytest.
_hidden: set[str] = set()
_hidden_in_errors: set[str] = set()


class _ShownCharacters(dict[int, str]):
    """How each character is shown; those seen first are remembered, which makes a long text twenty times as fast."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        shown = char if char.isprintable() or char in _SHOWN_AS_THEY_ARE else char.encode("unicode_escape").decode()
        if len(self) < _REMEMBERED_CHARACTERS:
            self[code] = shown
        return shown


_SHOWN = _ShownCharacters()


class Printable:
    """Makes an exception's text unable to steer a terminal or to hold a secret; stands before its other bases."""

    def __str__(self) -> str:
        return escape(_without_secrets(super().__str__()))

    def __repr__(self) -> str:
        return _without_secrets(super().__repr__())


class MaskedText(str):
    """Text whose repr hides it, because ``pytest -l`` prints the variables of every frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    @property
    def can_be_sent(self) -> bool:
        """Whether it can be the value of an HTTP header: printable ASCII without white space around it."""
        return self.isascii() and self.isprintable() and self.strip() == self


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without these secrets, the longest first, since one may be part of another."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def hide(secret: str, *, everywhere: bool = True) -> None:
    """Replace a secret from now on, in this process.

    Args:
        secret: what is shown as ``***``.
        everywhere: by ``without_hidden``, too, and not in the texts of our own errors alone.
    """
    (_hidden if everywhere else _hidden_in_errors).add(str(secret))


def without_hidden(text: str) -> str:
    """Return ``text`` without the secrets that ``hide`` was given: for text that other libraries make."""
    return redacted(text, _hidden) if _hidden else text


def _without_secrets(text: str) -> str:
    return redacted(text, _hidden | _hidden_in_errors)


def escape(text: str) -> str:
    r"""Return the text with every character that could steer a terminal or break XML written as ``\x1b`` and the like.

    Line breaks, tabs, spaces and joiners stay; control and other format characters (the bidirectional ones among
    them), surrogates and unassigned code points are escaped.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as ``1 byte`` and ``2,000 bytes``.

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for any other number; "" where an s is added.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def os_reason(error: OSError, place: str = "") -> str:
    """Return what the system refused, and for which file: many of its errors name none.

    Args:
        error: the system's.
        place: what was to be read or written, for an error that does not say.
    """
    file = error.filename or place
    return f"{error.strerror or error}{f': {os.fsdecode(file)}' if isinstance(file, (str, bytes)) and file else ''}"


def brief(value: object) -> str:
    """Return the repr of a value, without its middle where nobody would read it."""
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
