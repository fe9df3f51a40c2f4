"""Recorded exchanges of a real server and its agent, and their meaningful parts."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

MEANINGFUL = frozenset(
    {
        "accept-ranges",
        "content-disposition",
        "content-length",
        "content-range",
        "content-type",
        "execd-commands-tail-cursor",
        "location",
        "transfer-encoding",
    }
)
"""Header fields that mean something to a client; dates, server names and request ids do not."""

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_CLOCK = frozenset({"timestamp", "execution_time"})


@dataclass(frozen=True)
class Request:
    """A request of the recording client."""

    method: str
    path: str
    """Path and query, percent-encoded; ``/v1/...`` for the lifecycle, ``/proxy/44772/...`` for the agent."""
    headers: dict[str, str]
    body: Any
    """A JSON value, or text that was sent as it is, or None."""

    @property
    def data(self) -> bytes | None:
        """The body as bytes, None when there was none."""
        if self.body is None:
            return None
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Response:
    """A response, recorded or new."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether the body is a sequence of events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def events(self) -> list[dict[str, Any]]:
        """Return the events of a stream in order; a trailing bare object counts as one."""
        return [json.loads(frame) for frame in self.body.split(b"\n\n") if frame.strip()]


@dataclass(frozen=True)
class Exchange:
    """One request and its answer."""

    topic: str
    name: str
    request: Request
    response: Response


def load(topic: str) -> list[Exchange]:
    """Return the exchanges of one topic, in the order in which they were recorded."""
    return [_exchange(topic, entry) for entry in json.loads((FOLDER / f"{topic}.json").read_text("utf-8"))]


class Ids:
    """Which id of this run stands for which id of the recording."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, recorded: bytes, now: bytes) -> None:
        """Pair the ids of two answers to the same request by their order."""
        pairs = zip(_ids_in(recorded), _ids_in(now), strict=False)
        for old, new in pairs:
            self._known.setdefault(old, new)

    def rewrite(self, text: str) -> str:
        """Return ``text`` with each recorded id that was learnt replaced by the one of this run."""
        return _ID.sub(lambda match: self._known.get(match.group(), match.group()), text)


def meaning(response: Response) -> dict[str, Any]:
    """Return what two answers must share: status, meaningful headers, and the body without ids and clocks.

    Events keep their order, except that standard error comes after standard output and a ping right after ``init``:
    the two streams are tailed apart, and pings come when they come.
    """
    headers = {name: _timeless(value) for name, value in response.headers.items() if name in MEANINGFUL}
    content: Any = response.body.decode("utf-8", "replace")
    if response.is_stream:
        content = _settled([_timeless(event) for event in response.events()])
    elif response.headers.get("content-type", "").startswith("application/json"):
        content = _timeless(json.loads(response.body))
    if not isinstance(content, str):
        headers.pop("content-length", None)
    return {"status": response.status, "headers": headers, "body": content}


def _exchange(topic: str, entry: dict[str, Any]) -> Exchange:
    request, response = entry["request"], entry["response"]
    chunks = [_bytes(chunk) for _, chunk in response["chunks"] if chunk is not None]
    headers = {name.lower(): value for name, value in response["headers"].items()}
    return Exchange(
        topic,
        entry["name"],
        Request(request["method"], request["path"], request["headers"] or {}, request["body"]),
        Response(response["status"], headers, b"".join(chunks)),
    )


def _bytes(chunk: Any) -> bytes:
    return chunk.encode() if isinstance(chunk, str) else base64.b64decode(chunk["base64"])


def _ids_in(body: bytes) -> list[str]:
    return list(dict.fromkeys(_ID.findall(body.decode("utf-8", "replace"))))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {_timeless(key): _timeless(item) for key, item in value.items() if key not in _CLOCK}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if isinstance(value, str):
        return _TIME.sub("<time>", _ID.sub("<id>", value))
    return value


def _settled(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ranks = {"init": 0, "ping": 1, "stdout": 2, "stderr": 3}
    return sorted(events, key=lambda event: ranks.get(event.get("type", ""), 4))
