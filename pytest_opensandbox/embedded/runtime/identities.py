"""Identities of sandboxes where the server is root: each has users of its own, without rights on the host.

Root in a sandbox is one of these users, and owns only what the sandbox writes. Where the server is an ordinary user,
root in a sandbox is this user outside, and this module is not used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_opensandbox.embedded.runtime.agent_files import copy_agent_files, expose_agent_files
from pytest_opensandbox.embedded.runtime.host_files import LIBRARIES, PYTHON, HostFiles
from pytest_opensandbox.embedded.runtime.id_ranges import IdRange, IdRanges
from pytest_opensandbox.embedded.runtime.private_mounts import PrivateMounts
from pytest_opensandbox.embedded.runtime.system_layer import build_layer
from pytest_opensandbox.embedded.runtime.user_namespaces import NamespaceMaker


@dataclass(frozen=True)
class Identity:
    """The identity of one sandbox.

    Attributes:
        ids: the host's ids of its users and groups.
        layer: the tree that lies over the system directories, owned by its root.
        namespaces: descriptors of its user namespaces, the outer one and the one in it.
    """

    ids: IdRange
    layer: Path
    namespaces: tuple[int, int]

    def close(self) -> None:
        """Close the namespaces, which last as long as a process runs in them."""
        for namespace in self.namespaces:
            os.close(namespace)


class Identities:
    """Creates identities; call all but ``retain`` and ``release`` in the thread that starts the sandboxes.

    Args:
        needed: paths that sandboxes need, over which nothing may be mounted.

    Raises:
        OSError: this root lacks the rights.
    """

    def __init__(self, needed: Sequence[str]) -> None:
        self._mounts = PrivateMounts(needed)
        self._ids = IdRanges()
        self._layers: dict[IdRange, Path] = {}
        self._namespaces = NamespaceMaker()

    def acquire(self, ids: IdRange | None = None) -> Identity:
        """Return a new identity.

        Args:
            ids: those of a snapshot; None for unused ids.

        Raises:
            OSError: there are no more ids, or the kernel refuses namespaces.
        """
        taken = self._ids.acquire(ids)
        try:
            return Identity(taken, self._layer(taken), self._namespaces.make(taken))
        except OSError:
            self._ids.release(taken)
            raise

    def any_layer(self) -> Path:
        """Return one of the layers; they are all alike."""
        return next(iter(self._layers.values()))

    def retain(self, ids: IdRange) -> None:
        """Count a further user of ids, until one more ``release``."""
        self._ids.acquire(ids)

    def release(self, ids: IdRange) -> None:
        """Count one user of ids less: a sandbox or a snapshot was deleted."""
        self._ids.release(ids)

    def bind(self, path: str) -> Path:
        """Bind a file or directory to a path that the users of sandboxes can reach, and return that path.

        Raises:
            OSError: it cannot be mounted.
        """
        return self._mounts.bind(path)

    def adapt(self, host: HostFiles) -> HostFiles:
        """Return the same files at paths that the users of sandboxes can reach.

        Raises:
            OSError: something cannot be copied or mounted.
        """
        interpreter, top = host.interpreter, self._mounts.path / "agent"
        files = expose_agent_files(interpreter, top / "marks")
        files = copy_agent_files(files, interpreter, top / "copies")
        binds = tuple(
            (
                str(self._mounts.bind(source)) if inside == PYTHON else f"{files.library}{inside[len(LIBRARIES) :]}",
                inside,
            )
            for source, inside in interpreter.binds
        )
        copier = self._mounts.path / "copier"
        shutil.copytree(host.copier, copier)
        return replace(host, interpreter=replace(interpreter, binds=binds), copier=str(copier), agent_files=files)

    def copy_program(self, executable: str) -> str:
        """Copy a bubblewrap, with the libraries of its wheel, for all users, and return the path of the copy.

        Raises:
            OSError: there is no such program.
        """
        source = Path(executable)
        top = self._mounts.path / f"bubblewrap-{len(list(self._mounts.path.iterdir()))}"
        package = source.parents[1]
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(source.parent, top / package.name / source.parent.name)
            shutil.copytree(libraries, top / libraries.name)
            program = top / package.name / source.parent.name / source.name
        else:
            top.mkdir()
            program = Path(shutil.copy2(source, top / source.name))
        for path in (top, *top.rglob("*")):
            path.chmod(0o755)
        return str(program)

    def close(self) -> None:
        """End the program that makes namespaces."""
        self._namespaces.close()

    def _layer(self, ids: IdRange) -> Path:
        """Return the layer of a range, which is built once."""
        if ids not in self._layers:
            layer = self._mounts.path / f"layer-{ids.first:x}"
            build_layer(layer, owner=ids.first)
            self._layers[ids] = layer
        return self._layers[ids]
