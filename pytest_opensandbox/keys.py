"""The API key on its way into a header: text that the HTTP library can send and that nothing shows."""

from __future__ import annotations

from typing import Any

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.printable import MaskedText


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
    return key
