"""Listings of a server, read page by page to their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pytest_opensandbox.client.models import SandboxResponse, Snapshot
from pytest_opensandbox.errors import ProtocolError
from pytest_opensandbox.transport.retry import retry_idempotent
from pytest_opensandbox.transport.transport import Query, Transport

PAGE_SIZE = 200
"""Entries on a page, the most that servers give."""
MAX_PAGES = 1_000
"""More of them than any server can have; one that goes on is broken."""
MAX_ENTRIES = 50_000
"""Most entries of all pages together."""
MAX_BYTES = 16 * 1024 * 1024
"""Most bytes of all pages together; a sandbox with its labels has about one kilobyte."""
MAX_PAGE_VALUES = 100_000
"""Most values of one page."""

Item = TypeVar("Item", SandboxResponse, Snapshot)


def read_listing(transport: Transport, path: str, query: Query, from_wire: Callable[[Any], Item]) -> list[Item]:
    """Return all entries of a listing; a bare list is its only page.

    Entries move from page to page when others come and go meanwhile, so each id counts once.

    Args:
        transport: asks the server.
        path: below ``/v1``.
        query: what to list.
        from_wire: reads one entry.

    Returns:
        The entries in the server's order.

    Raises:
        ApiError: the server refuses.
        TransportError: no answer.
        ProtocolError: a page is neither a list nor an object with ``items``, or they do not end, or all together are
            more than ``MAX_ENTRIES`` or ``MAX_BYTES``.
    """
    found: dict[str, Item] = {}
    left = MAX_BYTES
    for number in range(1, MAX_PAGES + 1):
        page, size = _get_page(transport, path, query, number, left)
        left -= size
        items, more = _read_page(page)
        known = len(found)
        if known + len(items) > MAX_ENTRIES:
            raise ProtocolError(f"a listing has more than {MAX_ENTRIES:,} entries")
        for item in map(from_wire, items):
            found.setdefault(item.id, item)
        # A page that brings nothing new ends it too, or a broken server would keep us for ever.
        if not more or len(found) == known:
            return list(found.values())
    raise ProtocolError(f"a listing has more than {MAX_PAGES:,} pages")


def _get_page(transport: Transport, path: str, query: Query, number: int, max_bytes: int) -> tuple[Any, int]:
    """Return one page, and how many bytes it took."""
    params = [*query, ("page", str(number)), ("pageSize", str(PAGE_SIZE))]

    def get() -> tuple[Any, int]:
        answer = transport.request("GET", path, params=params)
        body = answer.json(max_bytes=max_bytes, max_values=MAX_PAGE_VALUES)
        return body, answer.received

    return retry_idempotent(get)


def _read_page(body: Any) -> tuple[list[Any], bool]:
    """Return a page's items, and whether another page follows."""
    items = body.get("items") if isinstance(body, dict) else body
    if not isinstance(items, list):
        raise ProtocolError(f"a listing must be a list or have items, the server sent {str(body)[:200]}")
    pagination = body.get("pagination") if isinstance(body, dict) else None
    return items, isinstance(pagination, dict) and bool(pagination.get("hasNextPage"))
