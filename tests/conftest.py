"""What several rooms' tests share: one sandbox of the embedded server a module, where a test only looks into it."""

from collections.abc import Iterator

import pytest

from pytest_opensandbox import Sandbox

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def box(sandbox_factory) -> Iterator[Sandbox]:
    """A sandbox for all tests of a module; each test leaves it as it was."""
    with sandbox_factory() as sandbox:
        yield sandbox
