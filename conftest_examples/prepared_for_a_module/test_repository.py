"""One sandbox, set up once, for all tests of a module."""

import pytest


@pytest.fixture(scope="module")
def library(sandbox_factory):
    """A sandbox with three books on its shelf; it lives until the last test of this module is over."""
    with sandbox_factory() as sandbox:
        sandbox.run("mkdir /workspace/shelf && cd /workspace/shelf && touch emma persuasion ulysses", check=True)
        yield sandbox


def test_books_stand_in_order(library):
    assert library.run("ls /workspace/shelf").stdout.split() == ["emma", "persuasion", "ulysses"]


def test_books_can_be_counted(library):
    assert library.run("ls /workspace/shelf | wc -l").stdout.strip() == "3"


def test_two_sandboxes_do_not_see_each_other(library, sandbox_factory):
    other = sandbox_factory()  # made in the test's own body: it goes with this test

    assert not other.run(["test", "-e", "/workspace/shelf"]).ok
