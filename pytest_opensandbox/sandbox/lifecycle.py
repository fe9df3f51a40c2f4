"""Creation and deletion of sandboxes, with the run's tags, a short lease, and a search for lost creates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_opensandbox.client.client import Client
from pytest_opensandbox.client.models import SandboxResponse
from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.clock import monotonic
from pytest_opensandbox.errors import ApiError, OpenSandboxError, ProtocolError, TransportError
from pytest_opensandbox.sandbox.lease import Lease
from pytest_opensandbox.sandbox.progress import Notify, Phases, Progress
from pytest_opensandbox.sandbox.tracking import TAG_CREATE, Ledger, RunTags
from pytest_opensandbox.text import counted
from pytest_opensandbox.transport.endpoints import Endpoint
from pytest_opensandbox.transport.failures import is_transient, with_advice
from pytest_opensandbox.transport.retry import poll_until_ready, retry_create, time_limit

_AMBIGUOUS_STATUSES = frozenset({502, 503, 504})
_NO_CAPACITY_STATUS = 429
_NOT_PLACED = "POD_READY_TIMEOUT"


@dataclass(frozen=True)
class ReadySandbox:
    """A sandbox that is ready: what the server says of it, and where its agent is."""

    response: SandboxResponse
    """State, metadata, times."""
    endpoint: Endpoint
    """The agent."""
    image: str
    """What it was made from."""


class Lifecycle:
    """Creates sandboxes so that each can be found again, and deletes them.

    Args:
        client: talks to the server.
        tags: labels of every sandbox.
        lease_seconds: time to live of every sandbox, renewed while this process lives; whole seconds, 60 … 86,400.
        ready_timeout: how long a sandbox may take to become ready, and how long a create is repeated on a server
            without capacity; seconds.
        notify: shows the user a line while a sandbox takes long; None to show nothing.
    """

    def __init__(
        self,
        client: Client,
        *,
        tags: RunTags,
        lease_seconds: int = 120,
        ready_timeout: float = 60.0,
        notify: Notify | None = None,
    ) -> None:
        self.client = client
        self.tags = tags
        self.ready_timeout = ready_timeout
        self.ledger = Ledger()
        self.lease = Lease(client, seconds=lease_seconds)
        self.progress = Progress(notify)
        self._timeouts = client.timeouts
        self._is_silent = False

    def launch(self, opts: SandboxOpts, *, test: str = "") -> ReadySandbox:
        """Create a sandbox and wait until commands can run in it; what does not become ready is deleted.

        Args:
            opts: what to create; its timeout is replaced by the lease.
            test: name of the test that asks, kept as a label.

        Raises:
            ApiError: the server refuses.
            SandboxFailedError: it ended before it was ready.
            ReadyTimeoutError: it was not ready in time.
            TransportError: the server does not answer.
        """
        tags = self.tags.metadata(test=test, is_restored=opts.snapshot_id is not None)
        tagged = replace(opts, metadata={**opts.metadata, **tags}, timeout=self.lease.seconds)
        source = opts.source
        with self.progress.phases() as phases:
            created = self._create(tagged, phases, f"creating a sandbox from {source}")
            response, endpoint = self._await_ready(created, phases, f"the sandbox from {source} is created")
        # On Docker the server reports the labels of the image, too.
        return ReadySandbox(replace(response, metadata=tagged.metadata), endpoint, source)

    def delete(self, sandbox_id: str) -> None:
        """Delete a sandbox; one that is already gone is fine.

        Raises:
            ApiError: the server refuses; the sandbox stays in the ledger.
            TransportError: the server does not answer; the sandbox stays in the ledger.
        """
        self.lease.release(sandbox_id)
        if self.ledger.is_gone(sandbox_id):
            return
        timeouts = self._timeouts
        try:
            with time_limit(timeouts.silent_delete_seconds if self._is_silent else timeouts.delete_seconds):
                self.client.delete_sandbox(sandbox_id)
        except TransportError as exc:
            # A server that has stopped is waited for once, not once for each sandbox.
            self._is_silent = exc.timed_out
            raise
        self._is_silent = False
        self.ledger.mark_deleted([sandbox_id])

    def close(self) -> None:
        """Stop renewing; deletes nothing."""
        self.lease.stop()
        self.progress.close()

    def _create(self, opts: SandboxOpts, phases: Phases, phase: str) -> SandboxResponse:
        """Create a sandbox; if the answer was lost, look for the sandbox by the tag of this create."""
        started = monotonic()
        try:
            created = self._create_with_retries(opts, phases, phase)
        except (TransportError, ApiError, ProtocolError) as exc:
            found = self._find_usable(opts) if may_have_created(exc) else []
            if not found:
                if may_have_created(exc):
                    self.ledger.mark_unconfirmed(opts.metadata[TAG_CREATE])
                if isinstance(exc, ApiError) and (advice := _advice(exc, monotonic() - started)):
                    raise with_advice(exc, advice) from exc
                raise
            created = found[0]
        except BaseException:
            # The server may still create it: unless the sandbox exists already, the sweep waits for it.
            self.ledger.mark_unconfirmed(opts.metadata[TAG_CREATE])
            # The user who pressed Ctrl-C does not want to wait, and the sweep comes after this.
            for stray in look_up(self.client, _own_label(opts), settling=0):
                self.ledger.mark_confirmed(opts.metadata[TAG_CREATE])
                self._discard(stray.id)
            raise
        self.ledger.add(created.id)
        return created

    def _create_with_retries(self, opts: SandboxOpts, phases: Phases, phase: str) -> SandboxResponse:
        """Create, and repeat it while the server says that it has made nothing and may do so later."""

        def create() -> SandboxResponse:
            phases.enter(f"{phase}; where the server lacks the image, it is being pulled")
            return self.client.create_sandbox(opts)

        def before_wait(refusal: ApiError) -> None:
            phases.enter(f"{phase}; the server refuses for now ({refusal.status} {refusal.code}), asking again")

        return retry_create(create, budget_seconds=self.ready_timeout, before_wait=before_wait, timeouts=self._timeouts)

    def _await_ready(self, created: SandboxResponse, phases: Phases, phase: str) -> tuple[SandboxResponse, Endpoint]:
        try:
            self.lease.hold(created.id)
            phases.enter(f"{phase}, waiting up to {self.ready_timeout:g} s for its agent")
            return self.client.wait_ready_endpoint(created.id, timeout=self.ready_timeout, known=created)
        except BaseException:
            self._discard(created.id)
            raise

    def _find_usable(self, opts: SandboxOpts) -> list[SandboxResponse]:
        """Return the sandboxes of a create that can still be used; a server that gave up is deleting its own."""
        found = look_up(self.client, _own_label(opts))
        for ending in (sandbox for sandbox in found if sandbox.is_final):
            self._discard(ending.id)
        return [sandbox for sandbox in found if not sandbox.is_final]

    def _discard(self, sandbox_id: str) -> None:
        """Delete after a failure, and raise nothing that would hide it; the sweep finds what stays."""
        try:
            self.delete(sandbox_id)
        except OpenSandboxError:
            return


def may_have_created(error: OpenSandboxError) -> bool:
    """Return whether a create may have made a sandbox although it failed with this error."""
    if isinstance(error, ApiError):
        return error.status in _AMBIGUOUS_STATUSES
    return isinstance(error, ProtocolError) or (isinstance(error, TransportError) and not error.unsent)


def look_up(client: Client, label: Mapping[str, str], *, settling: float | None = None) -> list[SandboxResponse]:
    """Return the sandboxes with a label, as soon as a listing has any; none once listings have stayed empty.

    The sweep and the lease end a sandbox that the server makes later, or while it cannot be asked.

    Args:
        client: talks to the server.
        label: unique to one create.
        settling: how long the listings must stay empty; seconds, default ``Timeouts.settling_seconds``.
    """
    settled = monotonic() + (client.timeouts.settling_seconds if settling is None else settling)

    def ask() -> list[SandboxResponse] | None:
        try:
            found = client.list_sandboxes(label)
        except (ApiError, TransportError) as exc:
            if not is_transient(exc):
                raise
            return None
        return found if found or monotonic() >= settled else None

    def give_up(waited_seconds: float, attempts: int) -> Exception:
        return OpenSandboxError(f"no listing in {waited_seconds:.1f} s and {counted(attempts, 'try', 'tries')}")

    try:
        seconds = client.timeouts.lost_create_seconds
        with time_limit(seconds):
            return poll_until_ready(ask, budget_seconds=seconds, on_timeout=give_up, timeouts=client.timeouts)
    except OpenSandboxError:
        return []


def _advice(error: ApiError, waited: float) -> str:
    """Return advice about a create that a server without capacity refused; "" for another error."""
    if error.status == _NO_CAPACITY_STATUS:
        return (
            f"refused for {waited:.1f} s: run fewer workers, give the server more capacity,"
            " or raise --opensandbox-ready-timeout"
        )
    if error.code.endswith(_NOT_PLACED):
        return (
            f"after {waited:.1f} s: the cluster had no place for it, or could not start it; use a pool, run fewer"
            " workers, or raise sandbox_create_timeout_seconds under [kubernetes] in the server's configuration"
        )
    return ""


def _own_label(opts: SandboxOpts) -> dict[str, str]:
    return {TAG_CREATE: opts.metadata[TAG_CREATE]}
