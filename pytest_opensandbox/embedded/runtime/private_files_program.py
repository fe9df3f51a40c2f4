"""The program that finds what a sandbox must not see of the system directories; it looks at every file.

``python private_files_program.py [--special] DIRECTORY...`` prints paths, each followed by a NUL, and by ``/`` before
that if it is a directory. It prints what is private and can still be read by the user who runs it: the user's own
files, those of the user's groups, and files with an access list. It also prints each private directory, because a
search would stumble over it, and with ``--special`` each socket and pipe. It does not look into a printed directory.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator


def find(directory: str, *, special: bool) -> Iterator[str]:
    """Yield the paths in a directory.

    Args:
        directory: absolute.
        special: whether sockets and pipes count.
    """
    own, waiting = os.getuid(), [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        continue
                    status = entry.stat(follow_symlinks=False)
                    is_directory = stat.S_ISDIR(status.st_mode)
                    if _is_private(status, entry.path, own) or (special and _is_special(status)):
                        yield f"{entry.path}/" if is_directory else entry.path
                    elif is_directory:
                        waiting.append(entry.path)
        except OSError:  # removed in the meantime, or closed for this user, and so for the sandbox
            continue


def _is_private(status: os.stat_result, path: str, own: int) -> bool:
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    if status.st_mode & needed == needed:
        return False
    return stat.S_ISDIR(status.st_mode) or status.st_uid == own or os.access(path, os.R_OK)


def _is_special(status: os.stat_result) -> bool:
    return stat.S_ISSOCK(status.st_mode) or stat.S_ISFIFO(status.st_mode)


def main() -> None:
    """Print what is found in the directories of the command line."""
    directories = sys.argv[1:]
    special = directories[:1] == ["--special"]
    for directory in directories[special:]:
        for path in find(directory, special=special):
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")


if __name__ == "__main__":
    main()
