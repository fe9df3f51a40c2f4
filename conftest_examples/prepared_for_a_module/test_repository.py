"""One sandbox, set up once, for all tests of a module."""

import pytest


@pytest.fixture(scope="module")
def library(sandbox_factory):
    """A sandbox with three books; it lives until the last test of this module has ended."""
    with sandbox_factory() as sandbox:
        sandbox.run("mkdir /workspace/books && cd /workspace/books && touch emma persuasion ulysses", check=True)
        yield sandbox


def test_books_are_listed_in_order(library):
    assert library.run("ls /workspace/books").stdout.split() == ["emma", "persuasion", "ulysses"]


def test_books_can_be_counted(library):
    assert library.run("ls /workspace/books | wc -l").stdout.strip() == "3"


def test_two_sandboxes_do_not_see_each_other(library, sandbox_factory):
    other = sandbox_factory()  # created by the test itself, so it is deleted after this test

    assert not other.run(["test", "-e", "/workspace/books"]).ok
