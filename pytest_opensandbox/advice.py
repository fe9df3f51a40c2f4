"""Advice that ends an error: what to do about a failure."""

from __future__ import annotations

import re

from pytest_opensandbox.text import tail

TIME_LIMIT = "its time limit"
"""The end of a ``SetupError.why`` whose setup was stopped by its time limit."""

_GONE_ADVICE = {
    "expired": "a run renews its sandboxes while it can reach the server; raise --opensandbox-lease if it cannot",
    "deleted": "look for another client, a sweep of this run, or a server that lost its sandboxes in a restart",
    "crashed": "look for a command that killed every process, as `kill -9 -1` does, and in the log for the end of the"
    " first process; where memory ran out, raise the limit with resources=",
}

_START_ADVICE = {
    "argument list too long": "long text fits into a file, by put(), or into input=",
    "resource temporarily unavailable": "the sandbox has too many processes, end some of them first",
    "cannot allocate memory": "the sandbox has no memory left, give it more with resources=",
    "no space left": "the sandbox's disk is full, remove what is not needed",
}


def gone_advice(why: str) -> str:
    """Return advice for a sandbox that ended in this way; "" for none."""
    return _GONE_ADVICE.get(re.split(r"\W", why)[0], "")


def with_start_advice(why: str) -> str:
    """Return why a command could not be started, with what to do about it."""
    advice = next((text for words, text in _START_ADVICE.items() if words in why.lower()), "")
    return f"{tail(why)}; {advice}" if advice else why


def setup_advice(why: str, exit_code: int, stderr: str) -> str:
    """Return advice for a setup that failed in this way."""
    if why.endswith(TIME_LIMIT):
        return "give it more time with --opensandbox-setup-timeout"
    if "no such file or directory" in stderr.lower():
        return "give it the missing file with put=, and join commands with &&: each has a shell of its own"
    return {
        137: "it may have run out of memory: raise the limit with resources= or --opensandbox-resources",
        126: "make the program executable with chmod, or name its interpreter before it",
        127: "the image lacks the program: install it in the setup, or choose another image",
    }.get(137 if exit_code == -9 else exit_code, 'try the command in a sandbox without a setup (setup="")')
