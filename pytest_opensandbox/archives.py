"""A directory tree as a tar archive, both ways; what comes out of a sandbox is hostile until checked."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pytest_opensandbox.errors import ProtocolError, SkippedFileWarning, UnsafeArchiveError
from pytest_opensandbox.members import PATH_BYTES, open_checked

_PERMISSIONS = 0o777
_PRIVATE = 0o700


def pack_tree(source: Path, archive: BinaryIO) -> None:
    """Write a tree as an uncompressed tar with names relative to its root.

    Permission bits, empty directories and symbolic links are kept; owners are not. Devices, sockets and FIFOs are
    left out with a SkippedFileWarning.

    Args:
        source: the directory whose content is packed.
        archive: an open binary file, written from its present position.

    Raises:
        OSError: a file cannot be read.
    """
    # GNU format: BusyBox reads its long names, not those of pax.
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in _walk(source):
            if _is_special(path):
                warnings.warn(SkippedFileWarning(f"left out {path}: not a file, directory or link"), stacklevel=2)
                continue
            tar.add(path, arcname=str(path.relative_to(source)), recursive=False, filter=_without_owner)


def extract_tree(archive: BinaryIO, target: Path, *, max_bytes: int) -> None:
    """Write the content of a tar into a directory, which is made if need be, without touching anything outside it.

    Every member is checked before the first is written; see ``open_checked``.

    Args:
        archive: an open, uncompressed tar that can seek.
        target: becomes the root of the tree; existing files of the same name are replaced.
        max_bytes: most that all files together may have; bytes.

    Raises:
        UnsafeArchiveError: a member would touch something outside; nothing was written.
        FileTooLargeError: more than ``max_bytes``; nothing was written.
        ProtocolError: not a complete tar archive.
    """
    try:
        room = PATH_BYTES - len(os.fsencode(target.absolute())) - 1
        checks = open_checked(archive, max_bytes=max_bytes, longest_name=room, is_folding=_is_folding(target))
        with checks as (tar, members):
            root_mode = next((member.mode for name, member in members if name == PurePosixPath()), None)
            made = not target.exists()
            target.mkdir(parents=True, exist_ok=True)
            _write(tar, [(name, member) for name, member in members if name != PurePosixPath()], target)
            if made and root_mode is not None:
                target.chmod(root_mode & _PERMISSIONS)
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"the sandbox sent no complete tar archive: {exc}") from exc


def _is_folding(target: Path) -> bool:
    """Say whether the file system at a place takes names that differ in case alone for one, as macOS's does."""
    place = next(parent for parent in (target, *target.absolute().parents) if parent.is_dir())
    with tempfile.NamedTemporaryFile(prefix="opensandbox-", dir=place) as probe:
        return os.path.lexists(Path(probe.name).with_name(Path(probe.name).name.upper()))


def _walk(directory: Path) -> Iterator[Path]:
    """Yield everything below a directory, parents first, in the order of names; links are not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _is_special(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _write(tar: tarfile.TarFile, members: list[tuple[PurePosixPath, tarfile.TarInfo]], target: Path) -> None:
    root = target.resolve()
    for name, member in members:
        path = root / name
        _make_parent(path.parent, root, member)
        if member.isdir():
            _make_directory(path)
        else:
            _replace(tar, member, path, root)
    # Last and deepest first: a directory without write permission must not stop its own content.
    for name, member in reversed(members):
        if member.isdir():
            (root / name).chmod(member.mode & _PERMISSIONS)


def _make_parent(parent: Path, root: Path, member: tarfile.TarInfo) -> None:
    parent.mkdir(parents=True, exist_ok=True)
    # The target may have held links before: follow them and look where they lead.
    if not parent.resolve().is_relative_to(root):
        raise UnsafeArchiveError(member.name, f"{parent} is a link that leads outside the target")


def _make_directory(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        path.unlink()
    path.mkdir(exist_ok=True)
    path.chmod(_PRIVATE)


def _replace(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, root: Path) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        original = root / member.linkname
        if original.is_symlink() or not original.is_file() or not original.resolve().is_relative_to(root):
            raise UnsafeArchiveError(member.name, f"it is a hard link to {member.linkname!r}, which is no file here")
        os.link(original, path)
    else:
        _write_file(tar, member, path)


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    if content is None:
        raise ProtocolError(f"the archive has no content for {member.name!r}")
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(member.mode & _PERMISSIONS)
