"""A database that is loaded once; every test gets it as it was loaded, even if an earlier test changed it."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = pytest.mark.sandbox(
    put={HERE / "books.csv": "/workspace/books.csv", HERE / "load_books.py": "/workspace/load_books.py"},
    setup="python3 /workspace/load_books.py /workspace/books.csv /workspace/library.db",
)


QUERY = """
import sqlite3, sys
with sqlite3.connect("/workspace/library.db") as database:
    print(database.execute(sys.argv[1]).fetchall())
"""


def query(sandbox, text):
    """Return the rows of a query as Python prints them."""
    return sandbox.run(["python3", "-c", QUERY, text], check=True).stdout.strip()


def test_the_library_has_three_books(sandbox):
    assert query(sandbox, "SELECT count(*) FROM book") == "[(3,)]"


def test_a_test_may_delete_them(sandbox):
    query(sandbox, "DELETE FROM book")

    assert query(sandbox, "SELECT count(*) FROM book") == "[(0,)]"


def test_the_oldest_is_emma(sandbox):
    assert query(sandbox, "SELECT title FROM book ORDER BY year LIMIT 1") == "[('Emma',)]"
