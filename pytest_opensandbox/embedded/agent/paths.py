"""Paths in requests: how they are expanded, and the files and directories that they lead to."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from .http import JsonObject, reason, timestamp

_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_ANY = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([*#$@!?0-9-])|([A-Za-z_][A-Za-z0-9_]*))")


def expand(path: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the path with ``$NAME``, ``${NAME}`` and a leading ``~`` replaced.

    A dollar sign that begins no name stays. Shell specials such as ``$1`` and ``$$`` vanish, as in Go's os.Expand.

    Args:
        path: any text; empty stays empty.
        environment: where names are looked up; the agent's own environment by default.

    Raises:
        OSError: the path names a variable that is not set, needs HOME where there is none, or contains NUL.
    """
    if "\0" in path:
        raise _invalid(path, "a path cannot contain NUL")
    known = os.environ if environment is None else environment
    unknown = sorted({name for pair in _NAMED.findall(path) for name in pair if name and name not in known})
    if unknown:
        raise _invalid(path, f"undefined environment variables: {','.join(unknown)}")
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
        OSError: as ``expand`` does.
    """
    return "/" + os.path.abspath(expand(path)).lstrip("/")


def invalid_directory(cwd: str) -> str:
    """Return what is wrong with a working directory, empty when nothing is; an empty path is always fine."""
    try:
        if not cwd or stat.S_ISDIR(os.stat(expand(cwd)).st_mode):
            return ""
    except OSError as exc:
        return f"working directory {reason(exc)}"
    return f"working directory {cwd}: not a directory"


class Permission(NamedTuple):
    """Owner, group and mode that a request asks for; empty and 0 leave them as they are."""

    owner: str = ""
    group: str = ""
    mode: int = 0
    """Decimal digits that are read as octal: 755 is rwxr-xr-x."""

    @classmethod
    def read(cls, value: Any) -> Permission:
        """Take the permission out of a JSON object.

        Raises:
            BadBodyError: it is no object, or a field has another type.
        """
        fields = JsonObject(value)
        return cls(fields.text("owner"), fields.text("group"), fields.number("mode") or 0)

    def apply(self, path: str) -> None:
        """Set mode, then owner and group.

        Raises:
            OSError: digits that are not octal, no such file, an unknown user or group, or not allowed.
        """
        if self.mode:
            os.chmod(path, octal(self.mode))
        if self.owner or self.group:
            os.chown(path, _user_id(self.owner), _group_id(self.group))


def octal(digits: int) -> int:
    """Return the permission bits that decimal digits spell: 755 is 0o755; set-id and sticky bits are dropped.

    Raises:
        OSError: a digit 8 or 9, or a negative number.
    """
    if digits < 0 or set(str(digits)) & set("89"):
        raise OSError(errno.EINVAL, f"mode {digits} is not octal")
    return int(str(digits), 8) & 0o777


def describe(path: str, status: os.stat_result) -> dict[str, Any]:
    """Return what ExecD says about a file; ``status`` is that of the entry itself, not of a link's target."""
    return {
        "path": path,
        "type": _type_name(status.st_mode),
        "size": status.st_size,
        "modified_at": timestamp(status.st_mtime_ns),
        "created_at": timestamp(status.st_ctime_ns),
        "owner": _user_name(status.st_uid),
        "group": _group_name(status.st_gid),
        "mode": int(f"{status.st_mode & 0o777:o}"),
    }


def make_directory(path: str) -> None:
    """Make a directory and those above it that are missing.

    Raises:
        OSError: something on the way is no directory, or may not be written to.
    """
    missing = [] if os.path.isdir(path) else [path]
    while missing and not os.path.isdir(above := os.path.dirname(missing[-1])) and above != missing[-1]:
        missing.append(above)
    for directory in reversed(missing):  # not os.makedirs: it calls itself for each level
        try:
            os.mkdir(directory)
        except FileExistsError:  # another request may just have made it
            if not os.path.isdir(directory):
                raise


def _in_home(rest: str) -> str:
    home = os.environ.get("HOME", "")
    if not home:
        raise _invalid("~", "HOME is not defined")
    return os.path.normpath(os.path.join(home, rest)) if rest else home


def _invalid(path: str, text: str) -> OSError:
    return OSError(errno.EINVAL, text, path)


def _type_name(mode: int) -> str:
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
    try:
        return pwd.getpwnam(name).pw_uid if name else -1
    except KeyError as exc:
        raise OSError(errno.EINVAL, f"unknown user {name}") from exc


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid if name else -1
    except KeyError as exc:
        raise OSError(errno.EINVAL, f"unknown group {name}") from exc
