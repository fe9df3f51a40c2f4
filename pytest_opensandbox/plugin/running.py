"""Which test is running, which part of it, and the sandboxes that it has used."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pluggy
import pytest

from pytest_opensandbox.client.sandbox_opts import SandboxOpts
from pytest_opensandbox.errors import ConfigError

if TYPE_CHECKING:
    from pytest_opensandbox.sandbox.sandbox import Sandbox

_FIXTURES = frozenset({"sandbox", "sandbox_factory", "opensandbox_client"})
"""The fixtures by which output of a sandbox comes to a test."""


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
        self._is_fixture_hidden = False
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

    def note_fixture(self, name: str) -> None:
        """Know that a fixture is set up; a test does not list what ``getfixturevalue`` asks for."""
        if name in _FIXTURES and name not in self._fixtures:
            self._is_fixture_hidden = True

    @property
    def may_show_output(self) -> bool:
        """Whether what pytest shows of the running test may come out of a sandbox.

        It may where the test has one of our fixtures, also by way of another fixture, or has used a sandbox. Once
        ``getfixturevalue`` has asked for one of them, any later test may have it in the same way.
        """
        return self._is_fixture_hidden or not _FIXTURES.isdisjoint(self._fixtures) or bool(self.used_by_test())

    @property
    def _fixtures(self) -> list[str]:
        return getattr(self._item, "fixturenames", [])

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
