"""Which files, and which part of one, as the agent is asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_opensandbox.client.models import check_path
from pytest_opensandbox.errors import ConfigError

MAX_FOUND = 100_000
"""Most files that a search may find."""
MAX_SEARCH_BYTES = 32 * 1024 * 1024
"""Most that is read of the answer to a search."""

VALUES_OF_FILE = 9
"""How many values describe one file, itself among them."""

_QUERY_CHARACTERS = 4_000


def check_agent_path(path: str) -> str:
    """Return a path that the agent takes as it is.

    Raises:
        ConfigError: not absolute, or the agent would expand something in it.
    """
    if "$" in check_path(path):
        raise ConfigError("path", "hold no '$', which the agent would expand; use a command for this file", path)
    return path


def queries(paths: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the paths as queries of a length that servers accept."""
    query: list[tuple[str, str]] = []
    length = 0
    for path in dict.fromkeys(map(check_agent_path, paths)):
        # Every byte may take three characters.
        cost = 3 * len(path.encode()) + len("&path=")
        if query and length + cost > _QUERY_CHARACTERS:
            yield query
            query, length = [], 0
        query.append(("path", path))
        length += cost
    if query:
        yield query


def range_header(byte_range: Sequence[int | None] | None) -> dict[str, str]:
    """Return the header that asks for a part of a file: its first byte, and the byte to stop before or None.

    Raises:
        ConfigError: not such a part.
    """
    if byte_range is None:
        return {}
    start, stop = byte_range
    if start is None or start < 0 or (stop is not None and stop <= start):
        raise ConfigError("byte_range", "be (start, stop) with 0 <= start < stop, or (start, None)", byte_range)
    return {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}


def longest(byte_range: Sequence[int | None] | None) -> int | None:
    """Return how many bytes a range can have, None where it has no end."""
    start, stop = byte_range or (None, None)
    return None if start is None or stop is None else stop - start


def no_file(path: str, kind: str) -> ConfigError:
    """Return the error for a path that is none of a regular file."""
    if kind == "directory":
        return ConfigError("path", "be a file, it is a directory; use get() for trees", path)
    return ConfigError("path", "be a file, it is a device, a socket or a FIFO", path)
