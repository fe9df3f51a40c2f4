"""A directory tree as a tar archive, both ways; what comes out of a sandbox is hostile until checked."""

from __future__ import annotations

import os
import shlex
import stat
import tarfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pytest_opensandbox.errors import SkippedFileWarning
from pytest_opensandbox.sandbox.archive_checks import PATH_BYTES, Budget, Links
from pytest_opensandbox.sandbox.directories import exists, set_modes
from pytest_opensandbox.sandbox.local_trees import NewTree
from pytest_opensandbox.sandbox.unpacking import Unpacking

_OWNER = 0o700
_PERMISSIONS = 0o777
_NAMES_A_LINE = 50

# Two trees in one directory would close directories in which the other one is to be moved.
_MOVING = threading.Lock()


def pack_tree(source: Path, archive: BinaryIO, *, closing_script: str = "") -> None:
    """Write a tree as an uncompressed tar with names relative to its root.

    Permission bits, empty directories and symbolic links are kept; owners are not. Devices, sockets and FIFOs are
    left out with a SkippedFileWarning. So is, without one, what is removed while the tree is read.

    Args:
        source: the directory whose content is packed.
        archive: an open binary file, written from its present position.
        closing_script: name of a member, a shell script, that takes permissions from directories which their owner
            may not write in, where there are any; until then he may. "" leaves their modes in their own headers.

    Raises:
        OSError: a file cannot be read.
    """
    closed: dict[int, list[str]] = {}

    def prepare(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        # Some tar programs cannot write in such a directory any more, others close it too early.
        if closing_script and member.isdir() and member.mode & _OWNER != _OWNER:
            closed.setdefault(member.mode & _PERMISSIONS, []).append(member.name)
            member.mode |= _OWNER
        return member

    # GNU format: BusyBox reads its long names, not those of pax.
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in _walk(source):
            try:
                if _is_special(path):
                    warnings.warn(SkippedFileWarning(f"left out {path}: not a file, directory or link"), stacklevel=2)
                    continue
                tar.add(path, arcname=str(path.relative_to(source)), recursive=False, filter=prepare)
            except FileNotFoundError:
                continue  # it has been removed meanwhile, as from a tree that tar packs in the sandbox
        if closed:
            script = _closing(closed)
            member = tarfile.TarInfo(closing_script)
            member.size = len(script)
            tar.addfile(member, BytesIO(script))


def extract_tree(
    archive: BinaryIO, target: Path, *, max_bytes: int, links: Links = "error", budget: Budget | None = None
) -> None:
    """Write the content of a tar into a directory, which is made if need be, without touching anything outside it.

    The tree is unpacked into a private directory beside the target, and moved to the target when all of it is there
    and safe. No link is followed on the way, neither of the archive nor of the target.

    Args:
        archive: an open, uncompressed tar.
        target: becomes the root of the tree; existing files of the same name are replaced.
        max_bytes: most that all files together may have; bytes.
        links: refuse the tree for a symbolic link that leads outside, leave such a link out, or keep it as it is.
        budget: what unpacking may cost; default one with ``max_bytes``.

    Raises:
        UnsafeArchiveError: a member would touch something outside, or the budget is used up; nothing was written.
        FileTooLargeError: more than ``max_bytes``; nothing was written.
        ProtocolError: not a complete tar archive; nothing was written.
        OSError: the target cannot be written.
    """
    budget = Budget(max_bytes) if budget is None else budget
    with closing(NewTree(target, budget)) as tree:
        unpacking = _unpack(archive, tree, links, budget)
        with _MOVING:
            root = tree.move(unpacking.root_mode)
            try:
                set_modes(root, unpacking.modes, budget)
            finally:
                os.close(root)


def _unpack(archive: BinaryIO, tree: NewTree, links: Links, budget: Budget) -> Unpacking:
    unpacking = Unpacking(
        tree.root,
        budget,
        links=links,
        longest_name=PATH_BYTES - len(os.fsencode(tree.target)) - 1,
        is_folding=_is_folding(tree.root),
        is_merged=tree.old_root is not None,
    )
    unpacking.run(archive)
    if tree.old_root is not None:
        unpacking.judge_links_in(tree.old_root, str(tree.target))
    return unpacking


def _is_folding(directory: int) -> bool:
    """Say whether a file system takes names that differ in case or in accents alone for one, as macOS's does."""
    accents = (os.fsdecode("\u00e9".encode()), os.fsdecode("e\u0301".encode()))
    return any(_are_one(*names, directory) for names in (("Opensandbox", "opensandbox"), accents))


def _are_one(name: str, other: str, directory: int) -> bool:
    try:
        os.mkdir(name, dir_fd=directory)
    except OSError:
        return False  # this file system has no such names
    try:
        return exists(other, directory)
    finally:
        os.rmdir(name, dir_fd=directory)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield everything below a directory, parents first, in the order of names; links are not followed."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            with suppress(FileNotFoundError):
                yield from _walk(Path(entry.path))


def _is_special(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _closing(closed: dict[int, list[str]]) -> bytes:
    """Return a shell script that gives directories their modes, the deepest first, and last what nobody may enter."""
    lines = []
    for mode, names in sorted(closed.items(), key=lambda item: item[0] & 0o100, reverse=True):
        words = [shlex.quote(f"./{name}") for name in reversed(names)]
        starts = range(0, len(words), _NAMES_A_LINE)
        lines += [f"chmod {mode:o} {' '.join(words[start : start + _NAMES_A_LINE])} || exit\n" for start in starts]
    return os.fsencode("".join(lines))
