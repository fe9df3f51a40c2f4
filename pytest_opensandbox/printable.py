"""Text from elsewhere, made fit to be shown: it may come out of a sandbox, and terminals obey some of it."""

from __future__ import annotations

_SHOWN_AS_THEY_ARE = frozenset("\n\t")


class Printable:
    """Makes an exception's text unable to steer a terminal, whatever went into it; stands before its other bases."""

    def __str__(self) -> str:
        return escape(super().__str__())


def escape(text: str) -> str:
    r"""Return the text with every character that could steer a terminal or break XML written as ``\x1b`` and the like.

    Line breaks and tabs stay; control and format characters (the bidirectional ones among them), surrogates and
    unassigned code points are escaped.
    """
    return "".join(
        char if char.isprintable() or char in _SHOWN_AS_THEY_ARE else char.encode("unicode_escape").decode()
        for char in text.replace("\r\n", "\n")
    )
