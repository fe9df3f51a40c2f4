"""The runner's part of the protocol, for servers that have no sandbox: read a request, write a report."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pytest_opensandbox.sandbox.runner_protocol import VARIABLE


def read_request(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of the request that a POST /command carries, by tag; {} for another command."""
    content = base64.b64decode(body.get("envs", {}).get(VARIABLE, ""))
    fields = {}
    while content:
        head, _, content = content.partition(b":")
        size = int(head[1:])
        fields[head[:1].decode()] = content[:size].decode()
        content = content[size:]
    return fields


def report_lines(nonce: str, *, stdout: bytes = b"", stderr: bytes = b"", status: int = 0) -> list[str]:
    """Return the lines of a report on a command.

    Args:
        nonce: begins each line.
        stdout: what it wrote to standard output.
        stderr: what it wrote to standard error.
        status: how it ended, as wait(2) has it.
    """
    streams = {"out": stdout, "err": stderr}
    lines = [f"{word} {len(text)} {base64.b64encode(text).decode()}" for word, text in streams.items() if text]
    return [f"{nonce} {line}" for line in [*lines, f"end {status} 0 {len(stdout)} {len(stderr)} 1000"]]
