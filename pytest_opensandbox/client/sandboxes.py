"""The lifecycle API's operations on sandboxes, and the reading of listings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

from pytest_opensandbox.client.models import SandboxResponse, Snapshot, parse_time
from pytest_opensandbox.client.sandbox_opts import SandboxOpts, check_label
from pytest_opensandbox.client.server_health import Health
from pytest_opensandbox.errors import ApiError, ConfigError, NotFoundError, ProtocolError
from pytest_opensandbox.transport.endpoints import path_segment
from pytest_opensandbox.transport.failures import has_no_sandbox
from pytest_opensandbox.transport.response import Response
from pytest_opensandbox.transport.retry import check_seconds, one_call, retry_idempotent, time_limit
from pytest_opensandbox.transport.transport import Query, Transport

DIAGNOSTICS_CHARACTERS = 65_536
"""Most that is kept of a sandbox's logs, its end."""

LONGEST_LEASE_SECONDS = 10 * 365 * 86_400.0
"""Longest life that can be asked for."""

_NO_DIAGNOSTICS_STATUSES = frozenset({400, 404, 405, 501})
_DIAGNOSTICS_BYTES = 16 * 1024 * 1024
_NO_LOGS = "(no logs)"

PAGE_SIZE = 200
"""Entries on a page, the most that servers give."""

Item = TypeVar("Item", SandboxResponse, Snapshot)


@dataclass(frozen=True, kw_only=True)
class ListingLimits:
    """The most that is read of one listing; a server that sends more is broken."""

    pages: int = 1_000
    """More than any server can have."""
    entries: int = 50_000
    """Of all pages together."""
    bytes: int = 16 * 1024 * 1024
    """Of all pages together; a sandbox with its labels has about one kilobyte."""
    page_values: int = 100_000
    """JSON values of one page."""


DEFAULT_LISTING_LIMITS = ListingLimits()


class SandboxesAPI:
    """The lifecycle operations on sandboxes; part of the client."""

    _transport: Transport
    _ends: dict[str, datetime | None]
    _health: Health

    def create_sandbox(self, opts: SandboxOpts) -> SandboxResponse:
        """Create a sandbox; sent once, because a second try could create a second one.

        Args:
            opts: what to create.

        Returns:
            The sandbox, not yet ready; see ``wait_ready``.

        Raises:
            ApiError: the server refuses.
            TransportError: no answer; a sandbox may have been created, look for it by its metadata.
            ProtocolError: the answer is not a sandbox.

        Source: specs/sandbox-lifecycle.yml, POST /sandboxes.
        """
        timeouts = self._transport.timeouts
        timeout = (timeouts.connect_seconds, timeouts.create_seconds)
        with time_limit(sum(timeout)), self._health.watching():
            answer = self._transport.request("POST", "/sandboxes", json=opts.to_wire(), timeout=timeout)
            return self._note_end(SandboxResponse.from_wire(answer.json()))

    @one_call
    def get_sandbox(self, sandbox_id: str) -> SandboxResponse:
        """Return a sandbox as the server describes it.

        Args:
            sandbox_id: the sandbox.

        Returns:
            The sandbox, whatever its state; states that this package does not know are kept as text.

        Raises:
            NotFoundError: no such sandbox, perhaps no longer.
            ApiError: the server refuses.
            TransportError: no answer.
            ProtocolError: the answer is not a sandbox.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes/{sandboxId}.
        """
        return retry_idempotent(lambda: self._fetch_sandbox(sandbox_id), timeouts=self._transport.timeouts)

    @one_call
    def list_sandboxes(
        self, metadata: Mapping[str, str] | None = None, *, states: Iterable[str] = ()
    ) -> list[SandboxResponse]:
        """Return all sandboxes that have all of these labels, and one of these states.

        Args:
            metadata: labels; None or none of them for every sandbox.
            states: such as ``Running``; none of them for every state.

        Returns:
            The sandboxes of all pages, in the server's order.

        Raises:
            ApiError: the server refuses.
            TransportError: no answer.
            ProtocolError: the answer is not a listing.

        Source: specs/sandbox-lifecycle.yml, GET /sandboxes.
        """
        # The labels are a query inside one parameter of the query.
        try:
            query = [("metadata", urlencode(dict(metadata)))] if metadata else []
        except UnicodeEncodeError:
            raise ConfigError("metadata", "be text that UTF-8 can write", metadata) from None
        query += [("state", state) for state in states]
        return read_listing(self._transport, "/sandboxes", query, SandboxResponse.from_wire)

    @one_call
    def delete_sandbox(self, sandbox_id: str) -> bool:
        """Delete a sandbox with all that runs in it.

        Args:
            sandbox_id: the sandbox.

        Returns:
            Whether there was one; False where it was already gone.

        Raises:
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, DELETE /sandboxes/{sandboxId}.
        """
        path = sandbox_path(sandbox_id)
        try:
            retry_idempotent(lambda: self._transport.request("DELETE", path).read(), timeouts=self._transport.timeouts)
        except NotFoundError:
            return False
        finally:
            self._ends.pop(sandbox_id, None)
        return True

    @one_call
    def renew(self, sandbox_id: str, seconds: float) -> datetime:
        """Let a sandbox live for so long from now on, by the server's clock.

        Args:
            sandbox_id: the sandbox.
            seconds: more than 0, at most ten years; fewer than it has left shorten its life.

        Returns:
            When it will end, with time zone.

        Raises:
            ConfigError: ``seconds`` is out of range.
            NotFoundError: no such sandbox.
            ConflictError: it has no end, or its state forbids it.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, POST /sandboxes/{sandboxId}/renew-expiration.
        """
        check_seconds("seconds", seconds, most=LONGEST_LEASE_SECONDS)
        moment = datetime.fromtimestamp(self._transport.server_time() + seconds, timezone.utc)
        body = {"expiresAt": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        path = f"{sandbox_path(sandbox_id)}/renew-expiration"
        # The time is absolute, so that asking twice does no harm.
        answer = retry_idempotent(
            lambda: self._transport.request("POST", path, json=body).json(), timeouts=self._transport.timeouts
        )
        self._ends[sandbox_id] = (parse_time(answer.get("expiresAt")) if isinstance(answer, dict) else None) or moment
        return self._ends[sandbox_id] or moment

    def known_end(self, sandbox_id: str) -> datetime | None:
        """Return when a sandbox ends, according to the last answer about it; sends nothing.

        Args:
            sandbox_id: the sandbox.

        Returns:
            A time with time zone; None for a sandbox that never ends, or that no answer was about.
        """
        return self._ends.get(sandbox_id)

    @one_call
    def pause(self, sandbox_id: str) -> None:
        """Ask for a sandbox to be frozen; Kubernetes keeps its file system alone, some time after the request.

        Args:
            sandbox_id: the sandbox.

        Raises:
            NotFoundError: no such sandbox.
            ConflictError: it does not run.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, POST /sandboxes/{sandboxId}/pause.
        """
        self._transport.request("POST", f"{sandbox_path(sandbox_id)}/pause").read()

    @one_call
    def resume(self, sandbox_id: str) -> None:
        """Ask for a paused sandbox to run again; see ``wait_ready_endpoint``, for its address may have changed.

        Args:
            sandbox_id: the sandbox.

        Raises:
            NotFoundError: no such sandbox.
            ConflictError: it is not paused.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, POST /sandboxes/{sandboxId}/resume.
        """
        self._transport.request("POST", f"{sandbox_path(sandbox_id)}/resume").read()

    @one_call
    def patch_metadata(self, sandbox_id: str, changes: Mapping[str, str | None]) -> SandboxResponse:
        """Change labels of a sandbox.

        Args:
            sandbox_id: the sandbox.
            changes: new values; None removes a label; other labels stay.

        Returns:
            The sandbox with its new labels.

        Raises:
            ConfigError: a label breaks the rules.
            NotFoundError: no such sandbox.
            ApiError: the server refuses.
            TransportError: no answer.

        Source: specs/sandbox-lifecycle.yml, PATCH /sandboxes/{sandboxId}/metadata.
        """
        for key, value in changes.items():
            check_label(key, value or "")
        path = f"{sandbox_path(sandbox_id)}/metadata"
        body = dict(changes)
        return SandboxResponse.from_wire(
            retry_idempotent(
                lambda: self._transport.request("PATCH", path, json=body).json(), timeouts=self._transport.timeouts
            )
        )

    @one_call
    def diagnostics(
        self, sandbox_id: str, kind: Literal["logs", "events"] = "logs", *, scope: str | None = None
    ) -> str:
        """Return a sandbox's own log or the runtime's events about it, as far as the server has them.

        Args:
            sandbox_id: the sandbox.
            kind: ``logs`` or ``events``.
            scope: the server's word for which of them; default ``container`` and ``runtime``.

        Returns:
            Text, at most its last 65,536 characters; "" where the server has none or does not know the operation.

        Raises:
            NotFoundError: no such sandbox.
            AuthError: the key is missing or wrong.
            ApiError: the server failed.
            ProtocolError: the answer is neither JSON of diagnostics nor text.
            TransportError: no answer.

        Source: specs/diagnostic-api.yml, GET /sandboxes/{sandboxId}/diagnostics/{kind}.
        """
        path = f"{sandbox_path(sandbox_id)}/diagnostics/{path_segment('kind', kind)}"
        params = [("scope", scope or ("container" if kind == "logs" else "runtime"))]
        try:
            return retry_idempotent(
                lambda: _read_diagnostics(self._transport.request("GET", path, params=params)),
                timeouts=self._transport.timeouts,
            )
        except ApiError as exc:
            if exc.status in _NO_DIAGNOSTICS_STATUSES and not has_no_sandbox(exc):
                return ""
            raise

    def _fetch_sandbox(self, sandbox_id: str) -> SandboxResponse:
        """Ask the server once for a sandbox."""
        answer = self._transport.request("GET", sandbox_path(sandbox_id))
        return self._note_end(SandboxResponse.from_wire(answer.json()))

    def _note_end(self, sandbox: SandboxResponse) -> SandboxResponse:
        self._ends[sandbox.id] = sandbox.expires_at
        return sandbox


def sandbox_path(sandbox_id: str) -> str:
    """Return the path of a sandbox below the API's.

    Raises:
        ConfigError: not an id.
    """
    return f"/sandboxes/{path_segment('sandbox_id', sandbox_id)}"


def _read_diagnostics(answer: Response) -> str:
    """Return the text inside the JSON of newer servers, or the text that older ones send."""
    if "json" not in (answer.headers.get("Content-Type") or ""):
        text = answer.read(max_bytes=_DIAGNOSTICS_BYTES).decode("utf-8", "replace")
    elif isinstance(body := answer.json(max_bytes=_DIAGNOSTICS_BYTES), dict) and "delivery" in body:
        text = str(body.get("content") or "")
    else:
        raise ProtocolError(f"diagnostics must have a delivery, the server sent {str(body)[:200]}")
    return "" if text.strip() == _NO_LOGS else text[-DIAGNOSTICS_CHARACTERS:]


def read_listing(
    transport: Transport,
    path: str,
    query: Query,
    from_wire: Callable[[Any], Item],
    *,
    limits: ListingLimits = DEFAULT_LISTING_LIMITS,
) -> list[Item]:
    """Return all entries of a listing, read page by page; a bare list is its only page.

    Entries move from page to page when other clients create and delete meanwhile, so each id counts once.

    Args:
        transport: asks the server.
        path: path below ``/v1``.
        query: which entries to list.
        from_wire: reads one entry.
        limits: the most that is read.

    Returns:
        The entries in the server's order.

    Raises:
        ApiError: the server refuses.
        TransportError: no answer.
        ProtocolError: a page is neither a list nor an object with ``items``, or the listing exceeds ``limits``.
    """
    found: dict[str, Item] = {}
    bytes_left = limits.bytes
    for number in range(1, limits.pages + 1):
        params = [*query, ("page", str(number)), ("pageSize", str(PAGE_SIZE))]
        page, size = _get_page(transport, path, params, max_bytes=bytes_left, max_values=limits.page_values)
        bytes_left -= size
        items, has_next = _read_page(page)
        known = len(found)
        if known + len(items) > limits.entries:
            raise ProtocolError(f"a listing has more than {limits.entries:,} entries")
        for item in map(from_wire, items):
            found.setdefault(item.id, item)
        # A page that brings nothing new ends the listing, too: a broken server may repeat a page for ever.
        if not has_next or len(found) == known:
            return list(found.values())
    raise ProtocolError(f"a listing has more than {limits.pages:,} pages")


def _get_page(transport: Transport, path: str, params: Query, *, max_bytes: int, max_values: int) -> tuple[Any, int]:
    """Return one page, and how many bytes it took."""

    def get() -> tuple[Any, int]:
        answer = transport.request("GET", path, params=params)
        return answer.json(max_bytes=max_bytes, max_values=max_values), answer.received

    return retry_idempotent(get, timeouts=transport.timeouts)


def _read_page(body: Any) -> tuple[list[Any], bool]:
    """Return a page's items, and whether another page follows."""
    items = body.get("items") if isinstance(body, dict) else body
    if not isinstance(items, list):
        raise ProtocolError(f"a listing must be a list or have items, the server sent {str(body)[:200]}")
    pagination = body.get("pagination") if isinstance(body, dict) else None
    return items, isinstance(pagination, dict) and bool(pagination.get("hasNextPage"))
