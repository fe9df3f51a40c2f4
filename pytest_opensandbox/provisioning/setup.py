"""The setup of a sandbox: files that are put into it, and commands that run in it, before a test gets it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pytest_opensandbox.client.models import check_path
from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.text import os_reason

Setup = str | Sequence[str]
"""One command for the shell, or several."""
Put = Mapping[str | os.PathLike[str], str | PurePosixPath]
"""Paths on this machine, and absolute paths in the sandbox."""

_READ_BYTES = 1024 * 1024
_TITLE_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class SandboxSetup:
    """Files and commands that prepare a sandbox."""

    commands: tuple[str, ...] = ()
    """Run one after the other, each by a shell of its own, until one does not exit with 0."""
    files: tuple[tuple[Path, str], ...] = ()
    """Absolute paths of files and directories on this machine, and their paths in the sandbox."""
    timeout: float = 600.0
    """How long each command may take; seconds."""
    put_name: str = "put"
    """The argument, flag, variable or ini key that named the files; for messages."""

    def __bool__(self) -> bool:
        return bool(self.commands or self.files)

    @property
    def title(self) -> str:
        """The commands on one line, shortened; for messages."""
        text = "; ".join(" ".join(command.split()) for command in self.commands)
        return text if len(text) <= _TITLE_CHARACTERS else f"{text[: _TITLE_CHARACTERS - 1]}…"

    def fingerprint(self) -> str:
        """Return a digest that changes with every change of the commands, the files' contents, names and modes.

        Raises:
            ConfigError: a file is not there, or cannot be read.
        """
        digest = hashlib.sha256(repr(self.commands).encode())
        for source, target in self.files:
            try:
                for entry in _entries(source):
                    digest.update(repr((target, *entry)).encode("utf-8", "surrogateescape"))
            except OSError as exc:
                rule = "name a file or directory that this user can read, below the rootdir or by an absolute path"
                raise ConfigError(self.put_name, f"{rule} ({os_reason(exc, str(source))})", str(source)) from None
        return digest.hexdigest()


def commands_of(setup: object) -> tuple[str, ...]:
    """Return the commands of a marker's or a call's ``setup``; empty for none.

    Raises:
        ConfigError: neither text nor a sequence of texts, or a text that no shell accepts.
    """
    rule = "be a command for the shell, or a list of such commands"
    if isinstance(setup, str):
        commands = [setup] if setup.strip() else []
    elif isinstance(setup, Sequence) and not isinstance(setup, (bytes, bytearray)):
        commands = list(setup)
    else:
        raise ConfigError("setup", rule, setup)
    if not all(isinstance(command, str) and command.strip() and "\0" not in command for command in commands):
        raise ConfigError("setup", rule, setup)
    return tuple(commands)


def targets_of(put: object) -> dict[str, str]:
    """Return the paths on this machine and in the sandbox of a marker's or a call's ``put``.

    Raises:
        ConfigError: not a mapping of paths to absolute paths.
    """
    if not isinstance(put, Mapping):
        raise ConfigError("put", "be a mapping of paths on this machine to absolute paths in the sandbox", put)
    targets = {}
    for source, target in put.items():
        if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
            raise ConfigError("put", "have paths on this machine as its keys", source)
        path = os.fspath(target) if isinstance(target, PurePosixPath) else target
        targets[str(os.fspath(source))] = check_path(path, field=f"put[{os.fspath(source)!r}]")
    return targets


def _entries(source: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield name, kind, mode and content's digest of everything that a put of this path copies, in one order."""
    # The path itself may be a link, as for a copy.
    yield ("", *_entry(source.resolve(strict=True)))
    walk = os.walk(source, onerror=_give_up) if source.is_dir() else ()
    for directory, names, files in walk:
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(directory, name)
            yield (str(path.relative_to(source)), *_entry(path))


def _entry(path: Path) -> tuple[str, int, str]:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "link", 0, os.readlink(path)
    if stat.S_ISREG(mode):
        return "file", mode & 0o777, _digest(path)
    return "directory" if stat.S_ISDIR(mode) else "special", mode & 0o777, ""


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _give_up(error: OSError) -> None:
    raise error
