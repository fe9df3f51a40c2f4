"""Files and directories: described, listed, searched, made, moved, changed and removed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from typing import Any

from . import http, paths
from .http import BAD_BODY, BadBodyError, Fields, RefusedError, Request, Response, failure, reason
from .paths import EntryError, Permission, describe, look_up, make_folders
from .patterns import BadPatternError, matcher

BAD_FORMAT = "error parsing request, MAYBE invalid body format. "


def info(request: Request) -> Response:
    """Answer ``GET /files/info``: a map from each path, as it was given, to what is known about it.

    Raises:
        RefusedError: 404, one of them is missing; 500, one of them means nothing.
    """
    try:
        return http.json_answer({path: look_up(path) for path in request.queries("path")})
    except EntryError as exc:
        raise unusable(exc) from exc


def search(request: Request) -> Response:
    """Answer ``GET /files/search``: files below a directory whose *base name* matches a pattern.

    Raises:
        RefusedError: 400, no directory; 404, it is missing; 500, a bad pattern or a directory that cannot be read.
    """
    path = resolved(request)
    pattern = request.query("pattern") or "**"
    try:
        os.stat(path)
    except OSError as exc:
        raise unusable(EntryError(failure("stat", exc), missing=isinstance(exc, FileNotFoundError))) from exc
    try:
        found = [describe(name, status) for name, status in _matching(path, pattern)]
    except OSError as exc:
        text = f"error searching files. error accessing path {exc.filename}: {failure('open', exc)}"
        raise RefusedError(500, "RUNTIME_ERROR", text) from exc
    except BadPatternError as exc:
        text = f"error searching files. invalid pattern {pattern}: syntax error in pattern"
        raise RefusedError(500, "RUNTIME_ERROR", text) from exc
    return http.json_answer(found)


def move(request: Request) -> Response:
    """Answer ``POST /files/mv``: rename one after the other; parents are made, nothing is overwritten.

    Raises:
        RefusedError: 400, the body; 404, a source is missing; 500, a target exists or cannot be made.
    """
    for source, target in request.checked(_moves, BAD_FORMAT):
        try:
            _rename(source, target)
        except EntryError as exc:
            raise unusable(exc) from exc
    return http.done()


def permissions(request: Request) -> Response:
    """Answer ``POST /files/permissions``.

    Raises:
        RefusedError: 400, the body; 500, no such file, user or group, or a mode that is not octal.
    """
    for path, permission in request.checked(read_permissions, BAD_FORMAT).items():
        try:
            permission.apply(paths.absolute(path))
        except (EntryError, paths.UnusablePathError) as exc:
            raise RefusedError(500, "RUNTIME_ERROR", f"error changing permissions for {path}. {exc}") from exc
    return http.done()


def replace(request: Request) -> Response:
    """Answer ``POST /files/replace``: replace literal text throughout; with ``verbose=true`` tell how often.

    Raises:
        RefusedError: 400, the body, or nothing to look for; 404, a file is missing; 500, it cannot be changed.
    """
    counts: dict[str, dict[str, int]] = {}
    for path, (old, new) in request.checked(_replacements, BAD_FORMAT).items():
        try:
            counts[path] = {"replacedCount": _replace(paths.absolute(path), old, new)}
        except paths.UnusablePathError as exc:
            raise unusable(EntryError(str(exc))) from exc
        except OSError as exc:
            missing = isinstance(exc, FileNotFoundError)
            raise unusable(EntryError(failure("stat" if missing else "open", exc), missing=missing)) from exc
    return http.json_answer(counts) if request.query("verbose") == "true" else http.done()


def remove(request: Request) -> Response:
    """Answer ``DELETE /files``; one that is missing is fine, a directory is not.

    Raises:
        RefusedError: 500, a directory, or a file that cannot be removed.
    """
    for path in request.queries("path"):
        try:
            _remove(path)
        except EntryError as exc:
            raise RefusedError(500, "RUNTIME_ERROR", f"error removing file {path}. {exc}") from exc
    return http.done()


def resolved(request: Request) -> str:
    """Return the absolute path that a request names.

    Raises:
        RefusedError: 400, it names none; 500, it contains an unknown variable.
    """
    path = request.needed("path")
    try:
        return paths.absolute(path)
    except paths.UnusablePathError as exc:
        raise RefusedError(500, "RUNTIME_ERROR", f"error converting path  to absolute. {exc}") from exc


def unusable(error: EntryError) -> RefusedError:
    """Return 404 for what is missing, 500 for everything else."""
    if error.missing:
        return RefusedError(404, "FILE_NOT_FOUND", f"file not found. {error}")
    return RefusedError(500, "RUNTIME_ERROR", f"error accessing file: {error}")


def read_permissions(value: Any) -> dict[str, Permission]:
    """Return what a body of paths and permissions asks for.

    Raises:
        BadBodyError: it is no such body.
    """
    return {path: Permission.read(Fields(item, "Permission")) for path, item in _object(value, "Permission").items()}


def _moves(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list | None):
        raise BadBodyError("json: cannot unmarshal object into Go value of type []model.RenameFileItem")
    items = [Fields(item, "RenameFileItem") for item in value or []]
    return [(item.text("src"), item.text("dest")) for item in items]


def _replacements(value: Any) -> dict[str, tuple[str, str]]:
    model = "ReplaceFileContentItem"
    items = {path: Fields(item, model) for path, item in _object(value, model).items()}
    return {path: (item.text("old"), item.text("new")) for path, item in items.items()}


def _object(value: Any, model: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise BadBodyError(f"json: cannot unmarshal array into Go value of type map[string]model.{model}")
    return value or {}


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


def _rename(source: str, target: str) -> None:
    origin, destination = _absolute(source, "source "), _absolute(target, "destination ")
    try:
        os.stat(origin)
    except FileNotFoundError as exc:
        raise EntryError(f"source path not found: {source}: {failure('stat', exc)}", missing=True) from exc
    except OSError:
        pass  # the rename says it better
    try:
        make_folders(os.path.dirname(destination))
    except EntryError as exc:
        raise EntryError(f"failed to create destination directory: {exc}") from exc
    if os.path.exists(destination):
        raise EntryError(f"destination path already exists: {target}")
    try:
        os.rename(origin, destination)
    except OSError as exc:
        text = f"failed to rename file: rename {origin} {destination}: {reason(exc)}"
        raise EntryError(text, missing=isinstance(exc, FileNotFoundError)) from exc


def _absolute(path: str, role: str = "") -> str:
    try:
        return paths.absolute(path)
    except paths.UnusablePathError as exc:
        raise EntryError(f"invalid {role}path: {exc}") from exc


def _replace(path: str, old: str, new: str) -> int:
    os.stat(path)
    with open(path, "rb") as file:
        content = file.read()
    if not old:
        raise RefusedError(400, "INVALID_REQUEST_BODY", "old content must not be empty")
    needle = old.encode("utf-8", "surrogateescape")
    with open(path, "wb") as file:
        file.write(content.replace(needle, new.encode("utf-8", "surrogateescape")))
    return content.count(needle)


def _remove(path: str) -> None:
    absolute = _absolute(path)
    try:
        if stat.S_ISDIR(os.stat(absolute).st_mode):
            raise EntryError(f"path is a directory: {path}")
    except FileNotFoundError:
        return
    except OSError as exc:
        raise EntryError(failure("stat", exc)) from exc
    try:
        os.remove(absolute)
    except OSError as exc:
        raise EntryError(f"failed to remove file: {failure('remove', exc)}") from exc


def list_directory(request: Request) -> Response:
    """Answer ``GET /directories/list``: the entries down to a depth, links not followed, sorted by name.

    Raises:
        RefusedError: 400, no path, no directory, a link, or a depth that makes no sense; 404, it is missing.
    """
    request.needed("path")
    depth = _depth(request)
    path = resolved(request)
    try:
        mode = os.lstat(path).st_mode
    except OSError as exc:
        raise unusable(EntryError(failure("lstat", exc), missing=isinstance(exc, FileNotFoundError))) from exc
    if stat.S_ISLNK(mode):
        raise RefusedError(400, BAD_BODY, f"path is a symbolic link, refusing to traverse: {path}")
    if not stat.S_ISDIR(mode):
        raise RefusedError(400, BAD_BODY, f"path is not a directory: {path}")
    try:
        return http.json_answer(_entries(path, depth))
    except OSError as exc:
        raise RefusedError(500, "RUNTIME_ERROR", f"error listing directory {path}. {failure('open', exc)}") from exc


def make_directories(request: Request) -> Response:
    """Answer ``POST /directories``; one that exists is fine and keeps its mode.

    Raises:
        RefusedError: 400, the body; 500, one cannot be made, or not with the owner or mode that it should have.
    """
    for path, permission in request.checked(read_permissions, BAD_FORMAT).items():
        try:
            _make_directory(paths.absolute(path), permission)
        except paths.UnusablePathError as exc:
            raise unusable(EntryError(str(exc))) from exc
        except EntryError as exc:
            raise unusable(exc) from exc
    return http.done()


def remove_directories(request: Request) -> Response:
    """Answer ``DELETE /directories``, with everything in them; one that is missing is fine.

    Raises:
        RefusedError: 500, one cannot be removed.
    """
    for path in request.queries("path"):
        try:
            target = paths.expand(path)
        except paths.UnusablePathError as exc:
            raise RefusedError(500, "RUNTIME_ERROR", f"error resolving directory {path}. {exc}") from exc
        try:
            _remove_directory(target)
        except OSError as exc:
            text = f"error removing directory {path}. {failure('unlinkat', exc)}"
            raise RefusedError(500, "RUNTIME_ERROR", text) from exc
    return http.done()


def _depth(request: Request) -> int:
    if not request.query("depth"):
        return 1
    depth = request.number("depth")
    if depth is None or depth < 0:
        raise RefusedError(400, BAD_BODY, f"invalid query parameter 'depth': {request.query('depth')}")
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


def _make_directory(path: str, permission: Permission) -> None:
    existed = os.path.exists(path)
    make_folders(path)
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
