"""Handlers for files and directories: described, listed, searched, made, moved, changed and removed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from . import http, paths
from .http import BAD_BODY, FAILED, BadBodyError, JsonObject, RefusedError, Request, Response
from .paths import Permission, describe
from .patterns import BadPatternError, matcher


def info(request: Request) -> Response:
    """Answer ``GET /files/info``: a map from each path, as it was given, to what is known about it.

    Raises:
        OSError: one of them is missing, or names an unknown variable.
    """
    return http.json_response({path: _describe(paths.absolute(path)) for path in request.queries("path")})


def search(request: Request) -> Response:
    """Answer ``GET /files/search``: files below a directory whose *base name* matches a pattern.

    Raises:
        RefusedError: 400, no path; 500, a bad pattern.
        OSError: the directory is missing, or one below it cannot be read.
    """
    path = paths.absolute(request.required("path"))
    pattern = request.query("pattern") or "**"
    os.stat(path)
    try:
        return http.json_response([describe(name, status) for name, status in _matching(path, pattern)])
    except BadPatternError as exc:
        raise RefusedError(500, FAILED, f"invalid pattern {pattern}") from exc


def move(request: Request) -> Response:
    """Answer ``POST /files/mv``: rename one after the other; parents are made, nothing is overwritten.

    Raises:
        RefusedError: 400, the body.
        OSError: a source is missing, or a target exists or cannot be made.
    """
    for source, target in request.read_json(_moves):
        _move(source, target)
    return Response()


def set_permissions(request: Request) -> Response:
    """Answer ``POST /files/permissions``.

    Raises:
        RefusedError: 400, the body; 500, no such file.
        OSError: no such user or group, or a mode that is not octal.
    """
    with http.missing_file_fails():
        for path, permission in request.read_json(_permissions).items():
            permission.apply(paths.absolute(path))
    return Response()


def replace_text(request: Request) -> Response:
    """Answer ``POST /files/replace``: replace literal text throughout; with ``verbose=true`` say how often.

    Raises:
        RefusedError: 400, the body, or nothing to look for.
        OSError: a file is missing, or cannot be changed.
    """
    counts = {
        path: {"replacedCount": _replace_text(paths.absolute(path), old, new)}
        for path, (old, new) in request.read_json(_replacements).items()
    }
    return http.json_response(counts) if request.query("verbose") == "true" else Response()


def remove_files(request: Request) -> Response:
    """Answer ``DELETE /files``; one that is missing is fine, a directory is not.

    Raises:
        OSError: a directory, or a file that cannot be removed.
    """
    for path in request.queries("path"):
        _remove_file(paths.absolute(path))
    return Response()


def list_directory(request: Request) -> Response:
    """Answer ``GET /directories/list``: the entries down to a depth, links not followed, sorted by name.

    Raises:
        RefusedError: 400, no path, no directory, a link, or a depth that is no number.
        OSError: it is missing, or cannot be read.
    """
    path = request.required("path")
    depth = request.integer("depth", at_least=0)
    path = paths.absolute(path)
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise RefusedError(400, BAD_BODY, f"{path}: links are not followed")
    if not stat.S_ISDIR(mode):
        raise RefusedError(400, BAD_BODY, f"{path}: not a directory")
    return http.json_response(_entries(path, 1 if depth is None else depth))


def make_directories(request: Request) -> Response:
    """Answer ``POST /directories``; one that exists is fine and keeps its mode.

    Raises:
        RefusedError: 400, the body.
        OSError: one cannot be made, or not with the owner or mode that it should have.
    """
    for path, permission in request.read_json(_permissions).items():
        _make_directory(paths.absolute(path), permission)
    return Response()


def remove_directories(request: Request) -> Response:
    """Answer ``DELETE /directories``, with everything in them; one that is missing is fine.

    Raises:
        OSError: one cannot be removed.
    """
    with http.missing_file_fails():
        for path in request.queries("path"):
            _remove_directory(paths.expand(path))
    return Response()


def _permissions(value: Any) -> dict[str, Permission]:
    return {path: Permission.read(item) for path, item in _object(value).items()}


def _moves(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list | None):
        raise BadBodyError("a list is expected")
    items = [JsonObject(item) for item in value or []]
    return [(item.text("src"), item.text("dest")) for item in items]


def _replacements(value: Any) -> dict[str, tuple[str, str]]:
    items = {path: JsonObject(item) for path, item in _object(value).items()}
    return {path: (item.text("old"), item.text("new")) for path, item in items.items()}


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise BadBodyError("an object is expected")
    return value or {}


def _describe(path: str) -> dict[str, Any]:
    return describe(path, os.lstat(path))


def _matching(root: str, pattern: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the entries below a path in the order of a walk: sorted, each directory's content in its place."""
    matches = matcher(pattern)
    for path, status in _walk(root):
        if matches(os.path.basename(path)):
            yield path, status


def _walk(path: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        status = os.lstat(path)
        names = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else None
    except FileNotFoundError:
        return
    if names is None:
        yield path, status
        return
    for name in names:
        yield from _walk(os.path.join(path, name))


def _move(source: str, target: str) -> None:
    origin, destination = paths.absolute(source), paths.absolute(target)
    try:
        os.stat(origin)
    except FileNotFoundError:
        raise
    except OSError:
        pass  # such as a link to itself, which can be renamed
    with http.missing_file_fails():
        paths.make_directory(os.path.dirname(destination))
    if os.path.exists(destination):
        raise FileExistsError(errno.EEXIST, "the destination exists", target)
    os.rename(origin, destination)


def _replace_text(path: str, old: str, new: str) -> int:
    with open(path, "rb") as file:
        content = file.read()
    if not old:
        raise RefusedError(400, BAD_BODY, "old must not be empty")
    needle = old.encode("utf-8", "surrogateescape")
    with open(path, "wb") as file:
        file.write(content.replace(needle, new.encode("utf-8", "surrogateescape")))
    return content.count(needle)


def _remove_file(path: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        os.remove(path)


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


def _make_directory(path: str, permission: Permission) -> None:
    existed = os.path.exists(path)
    paths.make_directory(path)
    if not existed:
        permission.apply(path)


def _remove_directory(path: str) -> None:
    try:
        is_directory = bool(path) and stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_directory:
        shutil.rmtree(path)
    elif path:
        os.remove(path)
