"""The options for a sandbox's user namespaces, and what its root may do in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_opensandbox.embedded.runtime.identities import Identity

# Root in a sandbox is the server's user outside: the only one that there is inside.
_OWN_USER = ("--unshare-user", "--uid", "0", "--gid", "0")
# Where no filter refuses namespaces. It puts the sandbox into one more, from which it cannot bind ports below 1024.
_NO_FURTHER_NAMESPACES = "--disable-userns"
# Of what root may do in a container, the part that counts for what is the sandbox's own, and for nothing of the host.
_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"),
    "CAP_NET_BIND_SERVICE",
)


def user_options(identity: Identity | None, *, is_filtered: bool) -> tuple[list[str], list[str]]:
    """Return the options for the user namespace of the guard, and for that of the sandbox with its rights."""
    if identity:
        outer, inner = (["--userns", str(namespace)] for namespace in identity.namespaces)
    else:
        outer, inner = ["--unshare-user"], [*_OWN_USER, *([] if is_filtered else [_NO_FURTHER_NAMESPACES])]
    if not identity and os.geteuid() == 0:
        # Everything of the host's root would count as the sandbox's own. A /proc of the guard's own, in which its
        # bubblewrap covers what this root could change, would keep the sandbox from having one.
        outer += ["--dev-bind", "/proc", "/proc"]
    else:
        # The inner bubblewrap looks there for processes as the guard's namespace numbers them.
        outer += ["--proc", "/proc"]
        inner += [part for name in _CAPABILITIES for part in ("--cap-add", name)]
    return outer, inner
