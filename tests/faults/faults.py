"""What can go wrong between a client and a server, by name; each makes its choices from the proxy's seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from random import Random

from tests.faults.proxy import HEAD_END, Exchange, Fault, Plan, header, well

DRIP_SECONDS = 0.06
"""Between two drops."""
SHORT_SECONDS = 0.1
"""A delay that every time limit allows for."""

GARBAGE = (
    b"",
    b"null",
    b"[]",
    b'"yes"',
    b"0",
    b"{",
    b'{"id": ""}',
    b'{"items": [{}]}',
    b'{"items": 5, "pagination": []}',
    b'{"endpoint": 7}',
    b"<html>Welcome</html>",
    b"\xff\xfe\x00\x80",
    b"[" * 5000,
    b'{"status": ' + b"{" * 2000,
)
STATUSES = (500, 502, 503, 429)


def reset_at_once(exchange: Exchange) -> bool:
    """Reset the connection, the request not passed on."""
    return exchange.reset()


def reset_after(exchange: Exchange) -> bool:
    """Pass the request on, and reset the connection instead of the answer."""
    exchange.answer()
    return exchange.reset()


def reset_within(exchange: Exchange) -> bool:
    """Reset the connection somewhere in the answer."""
    exchange.send(_part(exchange))
    return exchange.reset()


def truncate(exchange: Exchange) -> bool:
    """Close the connection in good order, somewhere in the answer."""
    exchange.send(_part(exchange))
    return False


def delay(exchange: Exchange) -> bool:
    """Answer a little later."""
    exchange.hold(SHORT_SECONDS)
    return well(exchange)


def stall(exchange: Exchange) -> bool:
    """Fall silent somewhere in the answer, and keep the connection open."""
    exchange.send(_part(exchange, least=0))
    exchange.hold()
    return False


def never(exchange: Exchange) -> bool:
    """Keep the request; pass it on, or not, and never answer."""
    if exchange.rng.random() < 0.5:
        exchange.answer()
    exchange.hold()
    return False


def late(exchange: Exchange) -> bool:
    """Pass the request on when the client has given up waiting for its answer."""
    exchange.hold()
    exchange.answer()
    return False


def trickle(exchange: Exchange) -> bool:
    """Answer byte by byte."""
    answer = exchange.answer()
    for at in range(min(len(answer), 4000)):
        exchange.send(answer[at : at + 1])
    exchange.send(answer[4000:])
    return True


def drip(exchange: Exchange) -> bool:
    """Answer byte by byte, each well in its time and all of them together not."""
    answer = exchange.answer()
    # What drips is the head, or what follows it.
    whole = 0 if exchange.rng.random() < 0.3 else answer.find(HEAD_END) + len(HEAD_END)
    exchange.send(answer[:whole])
    for byte in answer[whole:]:
        exchange.send(bytes([byte]))
        if not exchange.hold(DRIP_SECONDS):
            break
    return False


def refuse_with(status: int, *, passed_on: bool = False, retry_after: str = "") -> Fault:
    """Return the fault that answers with an error."""

    def fault(exchange: Exchange) -> bool:
        if passed_on:
            exchange.answer()
        extra = f"Retry-After: {retry_after}\r\n" if retry_after else ""
        body = '{"code": "PROXY::FAULT", "message": "injected"}'
        exchange.send(f"HTTP/1.1 {status} Fault\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return True

    return fault


def garbage(exchange: Exchange) -> bool:
    """Answer with a success that makes no sense."""
    exchange.answer()
    body = exchange.rng.choice(GARBAGE)
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return True


def too_long(exchange: Exchange) -> bool:
    """Promise more bytes than come; then fall silent, or close."""
    exchange.send(_with_length(exchange, exchange.rng.randint(1, 50)))
    if exchange.rng.random() < 0.5:
        exchange.hold()
    return False


def too_short(exchange: Exchange) -> bool:
    """Promise fewer bytes than come."""
    exchange.send(_with_length(exchange, -exchange.rng.randint(1, 50)))
    return True


def bytes_twice(exchange: Exchange) -> bool:
    """Send some bytes of the body twice."""
    answer = exchange.answer()
    body_starts = answer.find(HEAD_END) + len(HEAD_END)
    start = exchange.rng.randrange(body_starts, max(len(answer), body_starts + 1))
    end = start + exchange.rng.randint(1, 600)
    exchange.send(answer[:end] + answer[start:])
    return True


def chunk_twice(exchange: Exchange) -> bool:
    """Send twice what came as one piece; in a stream of events that is mostly one event."""
    pieces = list(exchange.ask())
    chosen = exchange.rng.randrange(1, max(len(pieces) - 1, 2))
    exchange.send(b"".join([*pieces[:chosen], *pieces[chosen : chosen + 1], *pieces[chosen:]]))
    return True


def open_for_ever(exchange: Exchange) -> bool:
    """Send everything but what ends a stream, and keep the connection open."""
    pieces = list(exchange.ask())
    is_stream = header(pieces[0], "Transfer-Encoding")
    for piece in pieces[:-1] if is_stream else pieces:
        exchange.send(piece)
    if is_stream:
        exchange.hold()
    return not is_stream


def _part(exchange: Exchange, *, least: int = 1) -> bytes:
    """Return the beginning of the answer; its last byte is always missing."""
    answer = exchange.answer()
    body_starts = answer.find(HEAD_END) + len(HEAD_END)
    # Half of the cuts lie in the body, however short it is beside the head.
    first = body_starts if exchange.rng.random() < 0.5 and body_starts < len(answer) else least
    return answer[: exchange.rng.randrange(min(first, len(answer) - 1), len(answer))]


def _with_length(exchange: Exchange, change: int) -> bytes:
    """Return the answer with a wrong length: of its body, or of one of its chunks."""
    pieces = list(exchange.ask())
    length = header(pieces[0], "Content-Length")
    if length:
        lie = b"Content-Length: %d" % max(int(length) + change, 0)
        pieces[0] = re.sub(rb"(?i)content-length: *\d+", lie, pieces[0])
    elif len(pieces) > 1:
        chosen = exchange.rng.randrange(1, len(pieces))
        size, _, rest = pieces[chosen].partition(b"\r\n")
        pieces[chosen] = b"%x\r\n%s" % (max(int(size, 16) + change, 0), rest)
    return b"".join(pieces)


def _burst(rng: Random) -> Plan:
    retry_after = rng.choice(("", "0", "0.05"))
    status = rng.choice(STATUSES)
    return Plan(refuse_with(status, retry_after=retry_after), times=rng.randint(1, 6))


def _ambiguous(rng: Random) -> Plan:
    return Plan(refuse_with(rng.choice((500, 502, 504)), passed_on=True))


def _some(fault: Fault, rng: Random, most: int = 5) -> Plan:
    return Plan(fault, times=rng.randint(1, most))


FAULTS: dict[str, Callable[[Random], Plan]] = {
    "reset before": partial(_some, reset_at_once),
    "reset after": partial(_some, reset_after),
    "reset within": partial(_some, reset_within),
    "truncated": partial(_some, truncate),
    "delayed": partial(_some, delay),
    "late": partial(_some, late, most=2),
    "no answer": partial(_some, never, most=2),
    "stalled": partial(_some, stall, most=2),
    "byte by byte": partial(_some, trickle),
    "dripping": partial(_some, drip, most=1),
    "errors": _burst,
    "error after": _ambiguous,
    "garbage": partial(_some, garbage),
    "too long": partial(_some, too_long, most=2),
    "too short": partial(_some, too_short),
    "bytes twice": partial(_some, bytes_twice),
    "chunk twice": partial(_some, chunk_twice),
    "never ends": partial(_some, open_for_ever),
}
"""How requests are spoiled, by the fault's name; besides these there is ``refused``, which closes the port."""
