"""Directories: listed, made and removed."""

from __future__ import annotations

import os
import shutil
import stat
from typing import Any

from bottle import HTTPResponse

from . import answers, paths
from .answers import RefusedError, failure
from .calls import BAD_BODY, Call
from .entries import EntryError, Permission, describe, make_folders
from .files import BAD_FORMAT, read_permissions, resolved, unusable


def listing(call: Call) -> HTTPResponse:
    """Answer ``GET /directories/list``: the entries down to a depth, links not followed, sorted by name.

    Raises:
        RefusedError: 400, no path, no directory, a link, or a depth that makes no sense; 404, it is missing.
    """
    call.needed("path")
    depth = _depth(call)
    path = resolved(call)
    try:
        mode = os.lstat(path).st_mode
    except OSError as exc:
        raise unusable(EntryError(failure("lstat", exc), missing=isinstance(exc, FileNotFoundError))) from exc
    if stat.S_ISLNK(mode):
        raise RefusedError(400, BAD_BODY, f"path is a symbolic link, refusing to traverse: {path}")
    if not stat.S_ISDIR(mode):
        raise RefusedError(400, BAD_BODY, f"path is not a directory: {path}")
    try:
        return answers.json_answer(_entries(path, depth))
    except OSError as exc:
        raise RefusedError(500, "RUNTIME_ERROR", f"error listing directory {path}. {failure('open', exc)}") from exc


def make(call: Call) -> HTTPResponse:
    """Answer ``POST /directories``; one that exists is fine and keeps its mode.

    Raises:
        RefusedError: 400, the body; 500, one cannot be made, or not with the owner or mode that it should have.
    """
    for path, permission in call.checked(read_permissions, BAD_FORMAT).items():
        try:
            _make(paths.absolute(path), permission)
        except paths.UnusablePathError as exc:
            raise unusable(EntryError(str(exc))) from exc
        except EntryError as exc:
            raise unusable(exc) from exc
    return answers.done()


def remove(call: Call) -> HTTPResponse:
    """Answer ``DELETE /directories``, with everything in them; one that is missing is fine.

    Raises:
        RefusedError: 500, one cannot be removed.
    """
    for path in call.queries("path"):
        try:
            target = paths.expand(path)
        except paths.UnusablePathError as exc:
            raise RefusedError(500, "RUNTIME_ERROR", f"error resolving directory {path}. {exc}") from exc
        try:
            _remove(target)
        except OSError as exc:
            text = f"error removing directory {path}. {failure('unlinkat', exc)}"
            raise RefusedError(500, "RUNTIME_ERROR", text) from exc
    return answers.done()


def _depth(call: Call) -> int:
    if not call.query("depth"):
        return 1
    depth = call.number("depth")
    if depth is None or depth < 0:
        raise RefusedError(400, BAD_BODY, f"invalid query parameter 'depth': {call.query('depth')}")
    return depth


def _entries(directory: str, depth: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    if depth == 0:
        return entries
    with os.scandir(directory) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            entries.append(describe(entry.path, entry.stat(follow_symlinks=False)))
            if entry.is_dir(follow_symlinks=False):
                entries += _entries(entry.path, depth - 1)
    return entries


def _make(path: str, permission: Permission) -> None:
    existed = os.path.exists(path)
    make_folders(path)
    if not existed:
        permission.apply(path)


def _remove(path: str) -> None:
    try:
        is_directory = bool(path) and stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_directory:
        shutil.rmtree(path)
    elif path:
        os.remove(path)
