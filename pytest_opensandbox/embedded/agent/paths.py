"""What a path in a request means: ``~`` and environment variables in it are expanded, everywhere in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from .answers import failure

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
