"""Which test is running, which part of it, and the sandboxes that it has used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pluggy
import pytest

from pytest_opensandbox.errors import ConfigError
from pytest_opensandbox.opts import SandboxOpts

if TYPE_CHECKING:
    from pytest_opensandbox.sandbox import Sandbox


class Running:
    """What a run knows of the present moment; part of the run.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.test_started = 0.0
        """``time.monotonic()`` when the test that is running began; seconds."""
        self._process = os.getpid()
        self._item: pytest.Item | None = None
        self._in_body = False
        self._open: list[Sandbox] = []
        self._recent: list[Sandbox] = []

    @property
    def is_fork(self) -> bool:
        """Whether a test has forked this process: what the run holds is its parent's, and so is what it tells."""
        return os.getpid() != self._process

    @contextmanager
    def test(self, item: pytest.Item) -> Iterator[None]:
        """Know which test is running, from its set-up to its teardown."""
        self._item = item
        self._recent = list(self._open)
        self.test_started = time.monotonic()
        try:
            yield
        finally:
            self._item = None

    @contextmanager
    def part(self, *, body: bool) -> Iterator[None]:
        """Know whether a test's own body is running, or a fixture that it may have asked for."""
        before, self._in_body = self._in_body, body
        try:
            yield
        finally:
            self._in_body = before

    def used_by_test(self) -> list[Sandbox]:
        """Return the sandboxes that the running test created or ran a command in, oldest first."""
        return [box for box in self._recent if _last_use(box) >= self.test_started]

    def _changed_by_hooks(self, opts: SandboxOpts) -> SandboxOpts:
        changed = self.hook.pytest_opensandbox_opts(config=self.config, opts=opts, nodeid=self._nodeid)
        if changed is None:
            return opts
        if not isinstance(changed, SandboxOpts):
            raise ConfigError("what pytest_opensandbox_opts returns", "be SandboxOpts or None", changed)
        return changed

    def _tell_of_end(self, box: Sandbox) -> None:
        self.hook.pytest_opensandbox_closed(config=self.config, sandbox=box)

    def _forget(self, box: Sandbox) -> None:
        if box in self._open:
            self._open.remove(box)

    @property
    def _nodeid(self) -> str:
        return self._item.nodeid if self._item is not None else ""

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks of the running test."""
        # A test's own relay, so that the conftest.py of a directory speaks for the tests in it only.
        return self._item.ihook if self._item is not None else self.config.hook


def _last_use(box: Sandbox) -> float:
    """Return when a sandbox was made or began its last command; ``time.monotonic()`` seconds."""
    return max([box.started, *(record.started for record in box.history)])
