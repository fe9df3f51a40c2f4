"""The objects in requests and answers, as frozen dataclasses, and the checks of paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from pytest_opensandbox.errors import ConfigError, ProtocolError

EXECD_PORT = 44772
"""Port of the agent inside every sandbox."""

FINAL_STATES = frozenset({"Failed", "Stopping", "Terminated"})
"""States after which a sandbox never runs again; Kubernetes lists a sandbox for a while after its deletion."""

_ID_CHARACTERS = 500
_FRACTION = re.compile(r"\.(\d+)")


@dataclass(frozen=True)
class SandboxResponse:
    """One sandbox as the server describes it."""

    id: str
    """The server's id, opaque."""
    state: str
    """``Pending``, ``Running``, ``Paused``, ``Failed`` … ; servers may add words of their own."""
    reason: str = ""
    """Machine-readable reason of the state, or ""."""
    message: str = ""
    """Sentence about the state, or ""."""
    image: str = ""
    """Image reference; the answer to a create leaves it out."""
    snapshot_id: str = ""
    """Snapshot it was restored from, or ""."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Labels; on Docker those of the image are among them."""
    created_at: datetime | None = None
    """Time of creation, with time zone."""
    expires_at: datetime | None = None
    """When the server will end it; None for never."""

    @property
    def is_running(self) -> bool:
        """Whether the state is Running."""
        return self.state == "Running"

    @property
    def is_paused(self) -> bool:
        """Whether the state is Paused."""
        return self.state == "Paused"

    @property
    def why(self) -> str:
        """Reason and message of the state, or ""."""
        return ": ".join(part for part in (self.reason, self.message) if part)

    @property
    def is_stopping(self) -> bool:
        """Whether it was deleted and the server, as on Kubernetes, still lists it."""
        return self.state == "Stopping"

    @property
    def is_final(self) -> bool:
        """Whether it will never run again."""
        return self.state in FINAL_STATES

    @classmethod
    def from_wire(cls, body: Any) -> SandboxResponse:
        """Read a sandbox; unknown fields and states are kept or ignored, never refused.

        Raises:
            ProtocolError: not an object, or it has no id.
        """
        _check_id("a sandbox", body)
        status = _object(body.get("status"))
        return cls(
            id=str(body["id"]),
            state=str(status.get("state") or ""),
            reason=str(status.get("reason") or ""),
            message=str(status.get("message") or ""),
            image=str(_object(body.get("image")).get("uri") or ""),
            snapshot_id=str(body.get("snapshotId") or ""),
            metadata={str(key): str(value) for key, value in _object(body.get("metadata")).items()},
            created_at=parse_time(body.get("createdAt")),
            expires_at=parse_time(body.get("expiresAt")),
        )


@dataclass(frozen=True)
class Snapshot:
    """The kept file system of a sandbox."""

    id: str
    """The server's id, opaque."""
    sandbox_id: str
    """The sandbox it was taken from."""
    state: str
    """``Creating``, ``Ready``, ``Failed`` or ``Deleting``."""
    name: str = ""
    """Name given at creation, or ""."""
    message: str = ""
    """Sentence about the state, or ""."""
    reason: str = ""
    """The server's reason code for the state, such as ``snapshot_runtime_ready``, or ""."""
    created_at: datetime | None = None
    """Time of creation, with time zone."""

    @classmethod
    def from_wire(cls, body: Any) -> Snapshot:
        """Read a snapshot.

        Raises:
            ProtocolError: not an object, or it has no id.
        """
        _check_id("a snapshot", body)
        status = _object(body.get("status"))
        return cls(
            id=str(body["id"]),
            sandbox_id=str(body.get("sandboxId") or ""),
            state=str(status.get("state") or ""),
            name=str(body.get("name") or ""),
            message=str(status.get("message") or ""),
            reason=str(status.get("reason") or ""),
            created_at=parse_time(body.get("createdAt")),
        )


@dataclass(frozen=True)
class FileUpload:
    """One file to be written in a sandbox."""

    path: str
    """Absolute POSIX path inside the sandbox; parents are made."""
    content: bytes | Path | BinaryIO = field(repr=False)
    """Bytes, a local file, or an open binary file that can seek; read in pieces."""
    mode: int = 0o644
    """Permission bits, 0 … 0o777."""

    def __post_init__(self) -> None:
        check_path(self.path)
        if not 0 <= self.mode <= 0o777:
            raise ConfigError("mode", "be permission bits, 0 to 0o777", oct(self.mode))


@dataclass(frozen=True)
class FileInfo:
    """One file as the agent describes it."""

    path: str
    """Path inside the sandbox."""
    size: int
    """Bytes."""
    modified_at: datetime | None = None
    """Time of the last change, with time zone."""
    type: str = ""
    """``file``, ``directory``, ``symlink`` or ``other``; "" from agents before 1.0.18, which leave it out."""
    mode: int = 0
    """Permission bits."""
    owner: str = ""
    """User name inside the sandbox."""
    group: str = ""
    """Group name inside the sandbox."""

    @classmethod
    def from_wire(cls, body: Any) -> FileInfo:
        """Read a file's entry; the wire writes a mode as a number whose decimal digits are octal.

        Raises:
            ProtocolError: not an object with a path and a size.
        """
        try:
            return cls(
                path=str(body["path"]),
                size=_count(body["size"]),
                modified_at=parse_time(body.get("modified_at")),
                type=str(body.get("type") or ""),
                mode=int(str(body.get("mode") or 0), 8) & 0o7777,
                owner=str(body.get("owner") or ""),
                group=str(body.get("group") or ""),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ProtocolError(
                f"a file's entry must have a path and a size, the agent sent {str(body)[:200]}"
            ) from exc


def check_path(path: str, *, field: str = "path") -> str:
    """Return a path if it can name something inside a sandbox.

    Args:
        path: what a caller gave.
        field: the argument's name, for the message.

    Raises:
        ConfigError: not absolute, with NUL, or no text that UTF-8 can write.
    """
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ConfigError(field, "be an absolute path inside the sandbox", path)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(field, "be text that UTF-8 can write; use a command for this file", path) from None
    return path


def text_bytes(field: str, given: object) -> bytes:
    """Return text as UTF-8.

    Args:
        field: what the caller calls it, for the message.
        given: the text.

    Raises:
        ConfigError: no text, or some that UTF-8 cannot write.
    """
    try:
        if isinstance(given, str):
            return given.encode()
    except UnicodeEncodeError:
        pass
    raise ConfigError(field, "be bytes, or text that UTF-8 can write", given)


def parse_time(text: Any) -> datetime | None:
    """Read an RFC 3339 time with ``Z`` or an offset and any number of fractional digits.

    Returns:
        A time with a time zone (UTC where the text names none), or None for what is no time.
    """
    if not isinstance(text, str):
        return None
    text = _FRACTION.sub(lambda match: f".{match[1][:6]:0<6}", text.replace("Z", "+00:00").replace("z", "+00:00"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def read_files(body: Any) -> Iterator[FileInfo]:
    """Read a list of files' entries; null counts as none.

    Raises:
        ProtocolError: not a list, or an entry without path and size.
    """
    entries: Iterable[Any] = [] if body is None else body
    if not isinstance(entries, list):
        raise ProtocolError(f"a search must answer with a list, the agent sent {str(body)[:200]}")
    return (FileInfo.from_wire(entry) for entry in entries)


def _check_id(what: str, body: Any) -> None:
    found = body.get("id") if isinstance(body, dict) else None
    # It goes into paths, headers and reports.
    if type(found) not in (str, int) or not 0 < len(str(found)) <= _ID_CHARACTERS or not str(found).isprintable():
        raise ProtocolError(f"{what} must be an object with an id, the server sent {str(body)[:200]}")


def _count(value: Any) -> int:
    """Return a number of bytes; JSON also allows ``Infinity`` and the like, which are refused."""
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(value)
    return value


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
