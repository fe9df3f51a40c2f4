"""Recorded traffic, played by a scripted server to the client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.scripted_servers import Pause, Piece, Reply, Server

AGENT = "/proxy/44772"
"""Where the recording server had the agent."""


def recordings(topic: str) -> dict[str, dict[str, Any]]:
    """Return the recorded exchanges of a topic by their names."""
    entries = json.loads((Path(__file__).parent / f"{topic}.json").read_text("utf-8"))
    # Where a request was repeated, its last answer is the interesting one.
    return {entry["name"]: entry for entry in entries}


def replay(entry: dict[str, Any], *, paced: bool = False) -> Reply:
    """Return the recorded answer, chunk by chunk, with its framing and, if asked for, its pace."""
    response = entry["response"]
    pieces: list[Piece] = []
    before = 0.0
    for milliseconds, chunk in response["chunks"]:
        if paced:
            pieces.append(Pause((milliseconds - before) / 1000))
            before = milliseconds
        if chunk is not None:
            pieces.append(chunk.encode())
    headers = dict(response["headers"])
    chunked = headers.pop("transfer-encoding", "") == "chunked"
    # Texts were made anonymous after their length had been noted; the largest number there is was meant.
    promised = int(headers.pop("content-length", 0))
    how: dict[str, Any] = {"promised": promised, "drop": "after"} if promised > 2**62 else {}
    return Reply(response["status"], pieces, headers, "chunked" if chunked else "length", **how)


def asked_as_recorded(server: Server, entry: dict[str, Any], *, besides: frozenset[str] = frozenset()) -> bool:
    """Return whether the first request is the recorded one; ``besides`` names query parameters that may be added."""
    seen, request = server.seen[0], entry["request"]
    recorded = urlsplit(request["path"])
    query = [pair for pair in seen.query if pair[0] not in besides]
    assert (seen.method, seen.path) == (request["method"], recorded.path)
    assert query == [pair for pair in parse_qsl(recorded.query) if pair[0] not in besides]
    return not isinstance(request["body"], dict) or seen.json.items() >= request["body"].items()
