"""The error of the copier."""

from __future__ import annotations


class RefusedError(Exception):
    """The files cannot be kept; the text gives the reason."""
