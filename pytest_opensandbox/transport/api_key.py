"""The API key on its way into a header: text that the HTTP library can send and that nothing shows."""

from __future__ import annotations

from typing import Any

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.text import MaskedText, hide

_CHARACTERS_OF_NO_WORD = 16
"""A shorter key may be a word, which stays in what pytest reports of tests that have nothing to do with it."""


class MaskedKey(MaskedText):
    """A key, which moreover leaves this process in requests only."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a key is not pickled")

    def redact(self, text: str) -> str:
        """Return ``text`` with every occurrence of the key replaced, for what comes back from a server."""
        return text.replace(self, "***") if self else text


def masked(api_key: str | None) -> MaskedKey:
    """Return a key that is safe to hold, empty for none.

    Raises:
        ConfigError: it cannot stand in an HTTP header.
    """
    key = MaskedKey(api_key or "")
    del api_key
    if not key.can_be_sent:
        raise ConfigError("api_key", "be printable ASCII without white space around it", key)
    hide(key, everywhere=len(key) >= _CHARACTERS_OF_NO_WORD)
    return key
