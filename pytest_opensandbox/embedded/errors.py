"""Errors of the embedded server: a refused request, and a machine on which it cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn


class StartError(Exception):
    """The server cannot run on this machine.

    Attributes:
        cause: the likely cause.
    """

    def __init__(self, message: str, cause: str) -> None:
        self.cause = cause
        super().__init__(message)


class RefusedError(Exception):
    """A response other than success.

    Attributes:
        status: HTTP status.
        body: the JSON object to send.
    """

    def __init__(self, status: int, body: Mapping[str, object]) -> None:
        self.status = status
        self.body = body
        super().__init__(f"{status} {body}")


def refuse(status: int, code: str, message: str) -> NoReturn:
    """Raise the refusal that names a code.

    Raises:
        RefusedError: always.
    """
    raise RefusedError(status, {"code": code, "message": message})
