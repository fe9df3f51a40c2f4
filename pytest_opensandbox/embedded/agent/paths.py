"""Paths in requests: how they are expanded, and the files and directories that they lead to."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from .http import Fields, failure, timestamp

_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_ANY = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([*#$@!?0-9-])|([A-Za-z_][A-Za-z0-9_]*))")


class UnusablePathError(ValueError):
    """A path names environment variables that are not set, or ``~`` without HOME, or nothing can have its name."""


def expand(path: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the path with ``$NAME``, ``${NAME}`` and a leading ``~`` replaced.

    A dollar sign that begins no name stays. Shell specials such as ``$1`` and ``$$`` vanish, as in Go's os.Expand.

    Args:
        path: any text; empty stays empty.
        environment: where names are looked up; the agent's own environment by default.

    Raises:
        UnusablePathError: a name that is not set, or NUL in the path.
    """
    if "\0" in path:
        raise UnusablePathError("invalid argument")
    known = os.environ if environment is None else environment
    unknown = sorted({name for pair in _NAMED.findall(path) for name in pair if name and name not in known})
    if unknown:
        raise UnusablePathError(f"path references undefined environment variables: {','.join(unknown)}")
    expanded = substitute(path, known)
    if expanded == "~" or expanded.startswith(("~/", "~\\")):
        return _in_home(expanded[2:])
    return expanded


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with each ``$NAME`` and ``${NAME}`` replaced; one that is not set becomes nothing."""
    return _ANY.sub(lambda match: environment.get(match[1] or match[3] or match[4] or "", ""), text)


def absolute(path: str) -> str:
    """Return the expanded path, absolute and without ``.``, ``..`` and double slashes.

    Raises:
        UnusablePathError: a name that is not set.
    """
    return "/" + os.path.abspath(expand(path)).lstrip("/")


def invalid_directory(cwd: str) -> str | None:
    """Return what is wrong with a working directory, None when nothing is; empty is always fine."""
    if not cwd:
        return None
    try:
        path = expand(cwd)
        is_directory = os.path.isdir(path) if os.stat(path) else False
    except UnusablePathError as exc:
        return f'cannot resolve working directory "{cwd}": {exc}'
    except FileNotFoundError as exc:
        return f"working directory does not exist: {cwd}: {failure('stat', exc)}"
    except OSError as exc:
        return f'cannot access working directory "{cwd}": {failure("stat", exc)}'
    return None if is_directory else f"working directory path is not a directory: {cwd}"


def _in_home(rest: str) -> str:
    home = os.environ.get("HOME", "")
    if not home:
        raise UnusablePathError("$HOME is not defined")
    return os.path.normpath(os.path.join(home, rest)) if rest else home


class EntryError(Exception):
    """An operation on a file that failed; the text is ExecD's.

    Attributes:
        missing: whether it failed because something is not there.
    """

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Permission(NamedTuple):
    """Owner, group and mode that a request asks for; empty and 0 leave them as they are."""

    owner: str = ""
    group: str = ""
    mode: int = 0
    """Decimal digits that are read as octal: 755 is rwxr-xr-x."""

    @classmethod
    def read(cls, fields: Fields) -> Permission:
        """Take the permission out of a JSON object."""
        return cls(fields.text("owner"), fields.text("group"), fields.number("mode", "int") or 0)

    def apply(self, path: str) -> None:
        """Set mode, then owner and group.

        Raises:
            EntryError: digits that are not octal, no such file, an unknown user or group, or not allowed.
        """
        if self.mode:
            bits = octal(self.mode)
            try:
                os.chmod(path, bits)
            except OSError as exc:
                raise EntryError(failure("chmod", exc), missing=isinstance(exc, FileNotFoundError)) from exc
        if self.owner or self.group:
            uid, gid = _user_id(self.owner), _group_id(self.group)
            try:
                os.chown(path, uid, gid)
            except OSError as exc:
                text = f"failed to set owner/group for {path}: {failure('chown', exc)}"
                raise EntryError(text, missing=isinstance(exc, FileNotFoundError)) from exc


def octal(digits: int) -> int:
    """Return the permission bits that decimal digits spell: 755 is 0o755; set-id and sticky bits are dropped.

    Raises:
        EntryError: a digit 8 or 9, or a negative number.
    """
    try:
        bits = int(str(digits), 8)
    except ValueError:
        bits = -1
    if bits < 0:
        raise EntryError(f'strconv.ParseUint: parsing "{digits}": invalid syntax')
    return bits & 0o777


def describe(path: str, status: os.stat_result) -> dict[str, Any]:
    """Return what ExecD tells about a file; ``status`` is that of the entry itself, not of a link's target."""
    return {
        "path": path,
        "type": _kind(status.st_mode),
        "size": status.st_size,
        "modified_at": timestamp(status.st_mtime_ns),
        "created_at": timestamp(status.st_ctime_ns),
        "owner": _user_name(status.st_uid),
        "group": _group_name(status.st_gid),
        "mode": int(f"{status.st_mode & 0o777:o}"),
    }


def look_up(path: str) -> dict[str, Any]:
    """Return what ExecD tells about the file at a path.

    Raises:
        EntryError: no such file, or a path that means nothing.
    """
    try:
        resolved = absolute(path)
        return describe(resolved, os.lstat(resolved))
    except UnusablePathError as exc:
        raise EntryError(f"invalid path {path}: {exc}") from exc
    except FileNotFoundError as exc:
        raise EntryError(f"file not found: {path}: {failure('lstat', exc)}", missing=True) from exc
    except OSError as exc:
        raise EntryError(f"error accessing file {path}: {failure('lstat', exc)}") from exc


def make_folders(path: str) -> None:
    """Make a directory and those above it that are missing.

    Raises:
        EntryError: something on the way is no directory, or may not be written to.
    """
    missing = [] if os.path.isdir(path) else [path]
    while missing and not os.path.isdir(above := os.path.dirname(missing[-1])) and above != missing[-1]:
        missing.append(above)
    try:
        for path in reversed(missing):  # not os.makedirs: it calls itself for each level
            _make_one(path)
    except (FileExistsError, NotADirectoryError) as exc:
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        raise EntryError(f"mkdir {path}: not a directory") from exc
    except OSError as exc:
        raise EntryError(failure("mkdir", exc)) from exc


def _make_one(path: str) -> None:
    """Make a directory, unless somebody else has just made it."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "other"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_id(name: str) -> int:
    if not name:
        return -1
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as exc:
        raise EntryError(f"failed to lookup user {name}: user: unknown user {name}") from exc


def _group_id(name: str) -> int:
    if not name:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as exc:
        raise EntryError(f"failed to lookup group {name}: group: unknown group {name}") from exc
