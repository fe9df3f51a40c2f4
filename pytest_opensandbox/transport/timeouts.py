"""The length of every wait of the client side, as one value that tests can shorten."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

RequestTimeout = tuple[float, float]
"""Seconds to connect, and seconds between two bytes."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long one client waits, for what; a duration is in seconds.

    The defaults are what users get. A test that has to see a limit pass hands shorter ones to ``Client``.
    """

    connect_seconds: float = 5.0
    """For a connection: the name, all addresses and TLS together."""
    request_seconds: float = 30.0
    """Between two bytes of an ordinary response."""
    create_seconds: float = 300.0
    """Between two bytes of the response to a create; on Docker the server pulls the image meanwhile."""
    body_seconds: float = 300.0
    """For an ordinary body as a whole, however steadily it drips."""
    error_body_seconds: float = 3.0
    """For the text of an error once its status is known; some servers promise bytes that never come."""

    health_seconds: float = 5.0
    """Silence during a create after which the server is asked for its health, and the limit of that request."""
    silent_health_seconds: float = 2.0
    """For the health of a server that was found to be silent."""

    first_poll_seconds: float = 0.02
    """The first wait between two polls; later ones grow."""
    longest_poll_seconds: float = 1.0
    """The longest wait between two polls."""
    first_retry_seconds: float = 0.25
    """The first wait before a request is repeated; later ones double."""
    longest_retry_seconds: float = 5.0
    """The longest wait before a request is repeated, unless the server asks for another."""
    longest_retry_after_seconds: float = 60.0
    """The longest wait that a server can ask for with ``Retry-After``."""
    sleep: Callable[[float], None] = time.sleep
    """Waits between polls and before retries."""

    first_byte_seconds: float = 30.0
    """For the agent to begin its response to a command; some runtimes accept a command and then say nothing."""
    silence_seconds: float = 20.0
    """Between two bytes of a command's events; the agent sends a ping every 3 s."""
    grace_seconds: float = 10.0
    """After a command's own time limit; the agent should have ended it by then."""
    ending_seconds: float = 5.0
    """To end a command that was given up, or to learn what became of it."""
    agent_connect_seconds: float = 2.0
    """For the connection over which a command is interrupted or its status is read."""
    interrupt_seconds: float = 8.0
    """For the response to an interrupt; the agent waits 3 s between SIGTERM and SIGKILL before it answers."""
    status_seconds: float = 5.0
    """For the status of a command."""

    transfer_connect_seconds: float = 30.0
    """For an upload to begin, and for each piece of it to be taken."""
    transfer_silence_seconds: float = 60.0
    """Between two bytes of a file, and for the response to an upload."""
    transfer_seconds: float = 60.0
    """For a file of any size; a longer one has more, at the lowest speed."""
    lowest_bytes_per_second: float = 64 * 1024
    """The lowest speed of a transfer that is waited for; half a megabit per second."""

    first_ping_seconds: float = 0.5
    """For the first ping of a new sandbox; each silence doubles it, so that a sandbox that dies is noticed early."""
    ping_seconds: float = 2.0
    """For any ping of a new sandbox."""
    address_seconds: float = 2.0
    """How long an agent's address is tried before the server is asked again: Kubernetes moves what it restarts."""

    diagnosis_seconds: float = 5.0
    """For all requests that find out why an agent does not answer: whether it has moved, or its sandbox is gone."""
    noticing_seconds: float = 2.0
    """For the server to notice that a sandbox ended whose agent does not answer."""
    settling_seconds: float = 1.5
    """How long listings must stay empty before a create without a response is known to have made nothing."""
    lost_create_seconds: float = 5.0
    """For the search for what a create without a response made."""
    delete_seconds: float = 30.0
    """For a delete, with its retries."""
    silent_delete_seconds: float = 2.0
    """For a delete on a server that was found to be silent."""
    fetch_seconds: float = 10.0
    """For a command's output of any length; a longer one has more."""
    last_output_seconds: float = 5.0
    """For the output of a command that the agent did not end in time."""
    tidy_seconds: float = 2.0
    """To remove the files that held a command's output."""
    copy_seconds: float = 600.0
    """For a command that packs or unpacks a tree."""

    @cached_property
    def request_timeout(self) -> RequestTimeout:
        """The limits of an ordinary request."""
        return self.connect_seconds, self.request_seconds

    @cached_property
    def call_seconds(self) -> float:
        """The limit of one call of the client, with all its answers, retries and waits."""
        return 4 * self.request_seconds + self.connect_seconds

    def for_transfer(self, size: int) -> float:
        """Return the limit of a transfer of so many bytes; seconds."""
        return self.transfer_seconds + size / self.lowest_bytes_per_second


DEFAULT_TIMEOUTS = Timeouts()
"""What users get."""
