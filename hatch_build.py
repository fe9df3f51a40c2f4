"""Builds the program that runs inside sandboxes, one for each machine, before a wheel, an sdist or an editable install.

A program is built again only when its sources change. An sdist carries the built programs, so that it can be installed
where no compiler is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = ("x86_64", "aarch64")
COMPILER = "ziglang==0.17.1"
OPTIONS = ("-O", "ReleaseSmall", "-fstrip", "-fsingle-threaded")


class RunnerBuildHook(BuildHookInterface[Any]):
    """Makes ``program-<machine>`` from the ``.zig`` files beside it."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return the compiler, if there is something to build."""
        return [] if self._is_built() else [COMPILER]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is not built yet, and have it packed although git ignores it."""
        if not self._is_built():
            for machine in MACHINES:
                self._build(machine)
            self._stamp.write_text(self._sources_digest(), encoding="ascii")
        build_data["artifacts"] += [f"pytest_opensandbox/runner/program-{machine}" for machine in MACHINES]
        if self.target_name == "sdist":
            build_data["artifacts"].append(f"pytest_opensandbox/runner/{self._stamp.name}")

    @property
    def _directory(self) -> Path:
        return Path(self.root) / "pytest_opensandbox" / "runner"

    @property
    def _stamp(self) -> Path:
        return self._directory / "sources.sha256"

    def _is_built(self) -> bool:
        programs = [self._directory / f"program-{machine}" for machine in MACHINES]
        is_current = self._stamp.exists() and self._stamp.read_text(encoding="ascii") == self._sources_digest()
        return is_current and all(program.exists() for program in programs)

    def _sources_digest(self) -> str:
        digest = hashlib.sha256(" ".join((COMPILER, *OPTIONS)).encode())
        for source in sorted(self._directory.glob("*.zig")):
            digest.update(b"%s\0%s\0" % (source.name.encode(), source.read_bytes()))
        return digest.hexdigest()

    def _build(self, machine: str) -> None:
        """Build one program, and put it in place as a whole: other builds may run at the same time."""
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / "program"
            command = [sys.executable, "-m", "ziglang", "build-exe", "main.zig", f"-femit-bin={built}"]
            caches = {"ZIG_GLOBAL_CACHE_DIR": f"{scratch}/global", "ZIG_LOCAL_CACHE_DIR": f"{scratch}/local"}
            subprocess.run(  # noqa: S603 - our own compiler
                [*command, "-target", f"{machine}-linux-none", *OPTIONS],
                cwd=self._directory,
                env={**os.environ, **caches},
                check=True,
            )
            new = self._directory / f".program-{machine}-{os.getpid()}"
            new.write_bytes(built.read_bytes())
            new.replace(self._directory / f"program-{machine}")
