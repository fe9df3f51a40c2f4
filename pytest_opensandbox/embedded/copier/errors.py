"""What can be wrong with a tree."""

from __future__ import annotations


class RefusedError(Exception):
    """What there is cannot be kept; the text says why."""
