"""The API key: text that a header can carry and that no message shows."""

from __future__ import annotations

from typing import Any

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.text import MaskedText, hide

_MIN_HIDDEN_CHARACTERS = 16
"""A shorter key may be an ordinary word. Reports of unrelated tests keep that word."""


class MaskedKey(MaskedText):
    """An API key, which leaves this process in requests only."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a key is not pickled")

    def redact(self, text: str) -> str:
        """Return a server's text with every occurrence of the key replaced."""
        return text.replace(self, "***") if self else text


def masked(api_key: str | None) -> MaskedKey:
    """Return the key in a type that hides it, empty for None.

    Raises:
        ConfigError: an HTTP header cannot carry the key.
    """
    key = MaskedKey(api_key or "")
    del api_key
    if not key.can_be_sent:
        raise ConfigError("api_key", "be printable ASCII without white space around it", key)
    hide(key, everywhere=len(key) >= _MIN_HIDDEN_CHARACTERS)
    return key
